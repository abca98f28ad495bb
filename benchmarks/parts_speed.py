"""What parts beside the packed matrix cost in time: one matrix in fast mode, with each part and without, in turns.

    python benchmarks/parts_speed.py [--size 4096] [--tokens 1 128] [--threads 1] [--rounds 15] [--json FILE]

Matrices are random, in the layout that encoders write; a figure is the median of its rounds. Weights stay in the caches as far as they fit.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import machine
from kbit.core.scheme import Scheme
from kbit.encoders.outliers import choose_outliers, outlier_parts
from kbit.encoders.prune import least_scores
from kbit.kernels import PreparedMatrix
from kbit.tensor.pruned import pack_mask, pack_stream
from kbit.tensor.quantized import QuantizedTensor, part_shapes

SCHEMES = [
    f"int4:g64{part}" for part in ("", "+outlier0.5", "+outlier1", "+outliercol1", "+lowrank16", "+lowrank64", "+prune50", "+prune2:4")
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header(f"parts of a {options.size} x {options.size} matrix, {options.threads} threads")
    matrices = {text: random_tensor(Scheme.parse(text), options.size) for text in SCHEMES}
    prepared = {text: PreparedMatrix(matrix) for text, matrix in matrices.items()}
    rows: list[dict[str, Any]] = []
    for tokens in options.tokens:
        x = np.random.default_rng(0).normal(size=(tokens, options.size)).astype(np.float32)
        times: dict[str, list[float]] = {text: [] for text in SCHEMES}
        for _ in range(options.rounds):
            for text, matrix in prepared.items():
                started = time.perf_counter()
                matrix.matmul(x, threads=options.threads)
                times[text].append(time.perf_counter() - started)
        for text in SCHEMES:
            rows.append({"scheme": text, "bpw": matrices[text].bpw, "tokens": tokens, "microseconds": 1e6 * statistics.median(times[text])})
            print(f"{text:<24}{rows[-1]['bpw']:>7.3f} bpw {tokens:>4} tokens {rows[-1]['microseconds']:>10.0f} us")
    machine.save(
        options.json, {"benchmark": "parts_speed", "machine": facts, "threads": options.threads, "size": options.size, "rows": rows}
    )
    return 0


def random_tensor(scheme: Scheme, size: int) -> QuantizedTensor:
    """A tensor of a scheme's layout with random contents."""
    draw = np.random.default_rng(1)
    parts = {}
    for name, (shape, dtype) in part_shapes(scheme, (size, size)).items():
        parts[name] = draw.integers(0, 100, shape).astype(dtype)
    parts["weight_scale"] = np.full(parts["weight_scale"].shape, 0x2000, np.uint16)
    if scheme.spec.pruned:
        kept = ~least_scores(draw.random((size, size)), scheme.spec)
        codes = draw.integers(0, 1 << scheme.bits, (size, size)).astype(np.uint8)
        parts |= {"weight_mask": pack_mask(kept), "weight": pack_stream(codes, kept, scheme.bits)}
    if scheme.spec.outlier is not None:
        cost = draw.random((size, size))
        parts |= outlier_parts(choose_outliers(cost, scheme.spec.outliers(size, size)), cost.astype(np.float32))
    if "weight_column_index" in parts:
        parts["weight_column_index"] = np.sort(draw.choice(size, parts["weight_column_index"].size, replace=False)).astype(np.int32)
    return QuantizedTensor.from_parts(scheme, (size, size), parts)


if __name__ == "__main__":
    raise SystemExit(main())
