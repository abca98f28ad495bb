"""Decoding many sequences at once: tokens a second against the size of the batch, on the model of 1.04 billion parameters of `engine.py`.

    python benchmarks/batch.py [--type nf4:g64] [--sizes 1 2 4 8 16 32] [--threads 1 2] [--rounds 5] [--folder DIR] [--json FILE]

A step feeds one token to each sequence. All sizes take turns in each round, with a probe of the processor's int8 rate between them; figures
are medians. `roof` is that rate (multiply-adds a second of `vpdpbusd` or its like, in registers) over the parameters of the model: the
tokens a second of an engine that did nothing but those; the matrix unit of AMX is above it.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import machine
from checkpoint import parameters
from kbit import native
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from peers.catalogue import ENGINES
from peers.files import MODELS, checkpoint_of, version_of

MODEL = "1b"
STEPS = 16
PROMPT = 16


def main() -> int:
    options = arguments()
    facts = machine.print_header(f"decode in batches, {MODEL}, {options.type}")
    folder = Path(tempfile.mkdtemp(prefix="kbit-batch-")) if options.folder is None else options.folder
    try:
        path = version_of(checkpoint_of(folder, MODEL), ENGINES["kbit"], options.type)
        rows = [row for threads in options.threads for row in measure(path, threads, options)]
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    machine.save(options.json, {"benchmark": "batch", "machine": facts, "type": options.type, "rounds": options.rounds, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default="nf4:g64")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the checkpoint and its version here, and use what is there")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(path: Path, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each size; the first round is not counted."""
    engine = Engine.load(path, threads=threads, cache_positions=(PROMPT + STEPS + 64) * max(options.sizes))
    found: dict[int, list[float]] = {size: [] for size in options.sizes}
    roofs: list[float] = []
    for index in range(options.rounds + 1):
        for size in options.sizes:
            roof, speed = native.int8_roof(threads), tokens_per_s(engine, size)
            if index:
                roofs.append(1e9 * roof / parameters(MODELS[MODEL]))
                found[size].append(speed)
    rows = []
    for size, speeds in found.items():
        median, roof = statistics.median(speeds), statistics.median(roofs)
        row = {"threads": threads, "batch": size, "tokens_per_s": median, "roof_tokens_per_s": roof, "samples": speeds}
        times = median / statistics.median(found[options.sizes[0]])
        rows.append(row | {"times_batch_of_first": times})
        print(
            f"{threads} thread(s)  batch {size:3}  {median:7.1f} tokens/s  {times:5.2f} × batch {options.sizes[0]}"
            f"  {median / roof:4.0%} of the int8 roof of {roof:.0f}"
        )
    return rows


def tokens_per_s(engine: Engine, size: int) -> float:
    """Of `STEPS` steps with `size` sequences after prompts of their own."""
    draw = np.random.default_rng(0)
    sequences = [engine.sequence() for _ in range(size)]
    for sequence in sequences:
        engine.step([Feed(sequence, draw.integers(3, 30_000, PROMPT).tolist())])
    started = time.perf_counter()
    for token in range(3, 3 + STEPS):
        engine.step([Feed(sequence, [token]) for sequence in sequences])
    seconds = time.perf_counter() - started
    for sequence in sequences:
        engine.free(sequence)
    return size * STEPS / seconds


if __name__ == "__main__":
    raise SystemExit(main())
