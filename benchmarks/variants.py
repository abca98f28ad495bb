"""The variants of fast mode against each other: lookup, integer and serial kernels, for one token and for a few.

    python benchmarks/variants.py                             linear grids of 1 to 4 and 8 bits, a 1B layer, 1 and 2 threads
    python benchmarks/variants.py --shapes 2048x2048 --threads 1 --json benchmarks/results/variants.json
    KBIT_ISA=avx2 python benchmarks/variants.py               another instruction set

Every matrix is copied until the copies exceed the caches, so that weights come from memory; variants take turns within a round, and
figures are medians over the rounds. All variants give the same bytes (csrc/tests/kernels_test.cc): what differs is time alone.
"""

import argparse
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import machine
from kbit import native
from kbit.core.scheme import Scheme
from kbit.evaluate.tune import random_matrix
from kbit.kernels.measure import Streamed, time_in_turns
from kbit.kernels.select import default_variant
from kbit.kernels.variants import VARIANTS, applicable

SCHEMES = ["int1:g64", "int2:g64", "int3:g64", "int4:g64", "int8:g64", "nf2:g64", "nf4:g64"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--shapes", nargs="+", default=["8192x2048"], metavar="ROWSxCOLS")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 4], help="1 … 4")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--stream-mib", type=int, default=512, help="bytes between two reads of a matrix; 0: one matrix, in the cache")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(text: str, shape: tuple[int, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of tokens and threads: microseconds of a product by each variant that the matrix permits."""
    streamed = Streamed(random_matrix(Scheme.parse(text), shape), options.stream_mib << 20)
    rows = []
    for tokens, threads in product(options.tokens, options.threads):
        variants = applicable(streamed.kind)
        rounds = time_in_turns(streamed.seconds, variants, tokens, threads, options.rounds)
        times = {variant: round(median(each[variant] for each in rounds) * 1e6, 1) for variant in variants}
        default = default_variant(streamed.kind, "one" if tokens == 1 else "few", native.isa())
        rows.append({"scheme": text, "shape": list(shape), "tokens": tokens, "threads": threads, "default": default, "us": times})
    return rows


def main() -> None:
    options = arguments()
    facts = machine.print_header("Variants of fast mode: microseconds a product, the default marked")
    print(f"{'scheme':<10} {'shape':>11} {'tokens':>6} {'threads':>7}  " + "  ".join(f"{variant:>10}" for variant in VARIANTS))
    rows = []
    for text, shape in product(options.schemes, options.shapes):
        height, width = map(int, shape.split("x"))
        for row in measure(text, (height, width), options):
            rows.append(row)
            cells = [f"{row['us'][v]:.1f}{'*' if v == row['default'] else ' '}" if v in row["us"] else "– " for v in VARIANTS]
            print(
                f"{text:<10} {shape:>11} {row['tokens']:>6} {row['threads']:>7}  " + "  ".join(f"{cell:>10}" for cell in cells), flush=True
            )
    machine.save(options.json, {"machine": facts, "rounds": options.rounds, "stream_mib": options.stream_mib, "rows": rows})


if __name__ == "__main__":
    main()
