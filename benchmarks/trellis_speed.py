"""Speed of trellis codes beside normal levels of the same bits: one token, weights streamed from memory, and prefill.

    python benchmarks/trellis_speed.py [--shape 8192 2048] [--threads 1] [--json FILE]

Matrices have random steps and codes; kernels do the same for all of them. Types take turns within a round, and figures are medians over
the rounds. A plain reading loop is probed in each round: the roof.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import machine
from kbit import native
from kbit.core.scheme import Scheme
from kbit.kernels import PreparedMatrix
from kbit.kernels.measure import Streamed
from kbit.tensor.quantized import QuantizedTensor, part_shapes

SCHEMES = [f"{grid}{bits}:g128" for bits in (2, 3, 4) for grid in ("nf", "trellis")]
PREFILL_TOKENS = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=2, type=int, default=[8192, 2048], help="multiples of 32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header(f"trellis codes, {options.shape[0]} x {options.shape[1]}, {options.threads} threads")
    shape = (options.shape[0], options.shape[1])
    tensors = {text: random_tensor(Scheme.parse(text), shape) for text in SCHEMES}
    streams = {text: Streamed(tensor) for text, tensor in tensors.items()}
    tokens: dict[str, list[float]] = {text: [] for text in SCHEMES}
    prefill: dict[str, list[float]] = {text: [] for text in SCHEMES}
    roofs = []
    for number in range(options.rounds):
        roofs.append(native.memory_roof(options.threads))
        for text in SCHEMES if number % 2 == 0 else SCHEMES[::-1]:
            tokens[text].append(streams[text].seconds("automatic", 1, options.threads))
            prefill[text].append(prefill_seconds(tensors[text], options.threads))
    rows = [row(text, tensors[text], tokens[text], prefill[text], statistics.median(roofs)) for text in SCHEMES]
    machine.save(options.json, {"benchmark": "trellis_speed", "machine": facts, "shape": shape, "threads": options.threads, "rows": rows})
    return 0


def random_tensor(scheme: Scheme, shape: tuple[int, int]) -> QuantizedTensor:
    """Random bytes: any are codes of a full codebook, and steps of a trellis."""
    rng = np.random.default_rng(0)
    parts = {name: rng.integers(0, 256, size, np.uint8).astype(dtype) for name, (size, dtype) in part_shapes(scheme, shape).items()}
    parts["weight_scale"] = np.full_like(parts["weight_scale"], np.float16(0.01).view(np.uint16))
    return QuantizedTensor.from_parts(scheme, shape, parts)


def prefill_seconds(tensor: QuantizedTensor, threads: int) -> float:
    """One product with many tokens."""
    matrix, x = PreparedMatrix(tensor), np.random.default_rng(1).standard_normal((PREFILL_TOKENS, tensor.shape[1]), np.float32)
    y = np.empty((PREFILL_TOKENS, tensor.shape[0]), np.float32)
    started = time.perf_counter()
    matrix.matmul_pointers(x.ctypes.data, y.ctypes.data, PREFILL_TOKENS, threads=threads)
    return time.perf_counter() - started


def row(text: str, tensor: QuantizedTensor, token: list[float], prefill: list[float], roof: float) -> dict[str, Any]:
    """Medians of one type."""
    seconds, many = statistics.median(token), statistics.median(prefill)
    rate = tensor.size_bytes / seconds / 1e9
    macs = PREFILL_TOKENS * tensor.shape[0] * tensor.shape[1] / many / 1e9
    print(
        f"{text:<16}{1e6 * seconds:>8.0f} us {rate:>7.1f} GB/s {rate / roof:>6.0%} of the roof   prefill {macs:>6.0f} G multiply-adds/s",
        flush=True,
    )
    return {"scheme": text, "bpw": tensor.bpw, "seconds": seconds, "gb_s": rate, "roof_gb_s": roof, "prefill_gmac_s": macs}


if __name__ == "__main__":
    raise SystemExit(main())
