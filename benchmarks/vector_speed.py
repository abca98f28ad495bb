"""Speed of vector codebooks beside scalar ones of the same bits: one layer of a 1B model, weights from memory, all in the same rounds.

    python benchmarks/vector_speed.py [--rounds 9] [--tokens 1 4 64] [--threads 1] [--json FILE]

Batch 1 and 4 read copies of the matrix that exceed the caches; 64 tokens are multiplied with one copy. Codes are random: time does not
depend on them. Microseconds are of one matrix, medians over rounds; GB/s are of codes and scales.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import kernels
import machine
from kbit.core.scheme import Scheme
from kbit.evaluate.tune import random_matrix

SHAPE = (8192, 2048)
SCHEMES = ("nf2:g128", "nvq2d2:g128", "nvq2d3:g96", "nvq2d3:g192", "nvq2.5d2:g128", "nf3:g128", "nvq3d2:g128", "nf4:g128")
STREAM_BYTES = 128 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header(f"vector codebooks, {SHAPE[0]}×{SHAPE[1]}, {options.threads} threads")
    rows = [row for tokens in options.tokens for row in measured(tokens, options.rounds, options.threads)]
    machine.save(options.json, {"benchmark": "vector_speed", "machine": facts, "shape": SHAPE, "threads": options.threads, "rows": rows})
    return 0


def measured(tokens: int, rounds: int, threads: int) -> list[dict[str, object]]:
    stream = STREAM_BYTES if tokens <= 4 else 1
    passes = {scheme: kernels.Streamed(Scheme.parse(scheme), SHAPE, tokens, stream, make=random_matrix) for scheme in SCHEMES}
    seconds: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
    for one in passes.values():
        one.run(threads)
    for _ in range(rounds):
        for scheme, one in passes.items():
            started = time.perf_counter()
            one.run(threads)
            seconds[scheme].append((time.perf_counter() - started) / one.copies)
    rows = []
    print(f"{'scheme':<16}{'tokens':>7}{'µs':>10}{'GB/s':>8}{'Gmac/s':>9}")
    for scheme, times in seconds.items():
        median = statistics.median(times)
        row = {
            "scheme": scheme,
            "tokens": tokens,
            "microseconds": 1e6 * median,
            "gb_per_s": passes[scheme].bytes_read / median / 1e9,
            "gmac_per_s": tokens * np.prod(SHAPE).item() / median / 1e9,
        }
        rows.append(row)
        print(f"{scheme:<16}{tokens:>7}{row['microseconds']:>10.1f}{row['gb_per_s']:>8.1f}{row['gmac_per_s']:>9.1f}", flush=True)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
