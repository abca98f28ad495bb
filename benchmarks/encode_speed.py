"""Speed of the encoders: seconds for a million weights, nearest and with errors compensated under a Hessian.

    python benchmarks/encode_speed.py [--schemes trellis3:g128 int4:g64] [--shape 2048 2048] [--threads 2] [--rounds 3] [--json FILE]

Normal weights; a Hessian of correlated inputs, of which the factorization is part of the time, as it is of encoding a model's matrix once.
Schemes take turns, and figures are medians over the rounds. `loss` is that of +gptq under the Hessian, in parts of what weights of zero
lose.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import machine
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import encode
from kbit.tensor.quantized import QuantizedTensor

SCHEMES = ["trellis1:g128", "trellis2:g128", "trellis3:g128", "trellis4:g128", "vq2d3:g96", "int4:g128", "nf4:g128", "kmeans4:g128"]
Float32 = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="without methods")
    parser.add_argument("--shape", nargs=2, type=int, default=[2048, 2048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows, cols = options.shape
    facts = machine.print_header(f"encoders, {rows} x {cols}, {options.threads} threads")
    weights, hessian = problem(rows, cols)
    nearest: dict[str, list[float]] = {text: [] for text in options.schemes}
    compensated: dict[str, list[float]] = {text: [] for text in options.schemes}
    losses = {}
    for number in range(options.rounds):
        for text in options.schemes if number % 2 == 0 else options.schemes[::-1]:
            plain, both = Scheme.parse(text), Scheme.parse(f"{text}+imp+gptq")
            nearest[text].append(timed(lambda plain=plain: encode(weights, plain, threads=options.threads))[0])
            seconds, tensor = timed(lambda both=both: encode_gptq(weights, both, hessian, threads=options.threads))
            compensated[text].append(seconds)
            losses[text] = loss(weights, tensor, hessian)
    table = [row(text, weights.size / 1e6, nearest[text], compensated[text], losses[text]) for text in options.schemes]
    machine.save(
        options.json,
        {
            "benchmark": "encode_speed",
            "machine": facts,
            "shape": [rows, cols],
            "threads": options.threads,
            "rounds": options.rounds,
            "rows": table,
        },
    )
    return 0


def problem(rows: int, cols: int) -> tuple[Float32, Float32]:
    """(weights, Hessian)."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((rows, cols), np.float32)
    mix = np.eye(cols, dtype=np.float32) + rng.standard_normal((cols, cols), np.float32) * np.float32(0.64 / cols**0.5)
    inputs = rng.standard_normal((2 * cols, cols), np.float32) @ mix
    return weights, inputs.T @ inputs


def timed(work: Callable[[], QuantizedTensor]) -> tuple[float, QuantizedTensor]:
    started = time.perf_counter()
    tensor = work()
    return time.perf_counter() - started, tensor


def loss(weights: Float32, tensor: QuantizedTensor, hessian: Float32) -> float:
    error = weights - tensor.dequantize()
    return float(((error @ hessian) * error).sum() / ((weights @ hessian) * weights).sum())


def row(text: str, millions: float, nearest: list[float], compensated: list[float], lost: float) -> dict[str, Any]:
    found = {
        "scheme": text,
        "nearest_seconds_per_million": statistics.median(nearest) / millions,
        "gptq_seconds_per_million": statistics.median(compensated) / millions,
        "gptq_loss": lost,
    }
    print(
        f"{text:<16} nearest {found['nearest_seconds_per_million']:>7.3f} s   +imp+gptq {found['gptq_seconds_per_million']:>7.3f} s"
        f"   loss {lost:.5f}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
