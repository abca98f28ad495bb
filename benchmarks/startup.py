"""From a cold process to the first token: kbit's engine beside llama.cpp, on the model of 1.04 billion parameters of `engine.py`.

    python benchmarks/startup.py --json benchmarks/results/startup.json
    python benchmarks/startup.py --types nf4:g64 Q4_0 --rounds 9 --threads 1

Each round starts a fresh process for each type: interpreter, imports, load, a prompt of 16 tokens, its first token. `warm` finds the files
in the page cache; `cold` runs after the system's caches were dropped (`/proc/sys/vm/drop_caches`, for root only; failed rows elsewhere),
so that libraries too come from the disk. Figures are medians over the rounds, the first of them not counted. `resident` is the process's
memory after the load over the size of the file: interpreter, libraries and cache of keys and values included.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from checkpoint import parameters
from peers.catalogue import ENGINES
from peers.client import Worker
from peers.files import MODELS, FailureError, checkpoint_of, file_bytes, version_of
from peers.rounds import Contestant

MODEL = "1b"
PROMPT = list(range(3, 19))
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
TYPES = ("nf4:g64", "Q4_K_M", "Q4_0")
Row = dict[str, Any]


def main() -> int:
    options = arguments()
    facts = machine.print_header("cold process to first token")
    folder = Path(tempfile.mkdtemp(prefix="kbit-startup-")) if options.folder is None else options.folder
    try:
        contestants = enter(folder, options.types)
        times = [run_rounds(contestants, state, options) for state in ("warm", "cold")]
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    rows = [row for state in times for row in state]
    print_table(rows)
    machine.save(
        options.json, {"benchmark": "startup", "machine": facts, "threads": options.threads, "rounds": options.rounds, "rows": rows}
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=list(TYPES), help="types of kbit and of llama.cpp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the checkpoint and its versions here, and use what is there")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def enter(folder: Path, types: list[str]) -> list[Contestant]:
    """The engines' types that were asked for, with their files made, or the reason why not."""
    checkpoint = checkpoint_of(folder, MODEL)
    contestants = [Contestant(ENGINES[name], kind) for name in ("kbit", "llama_cpp") for kind in ENGINES[name].types if kind in types]
    for contestant in contestants:
        try:
            contestant.path = version_of(checkpoint, contestant.engine, contestant.kind)
        except FailureError as failure:
            contestant.failure = str(failure)
    return contestants


def run_rounds(contestants: list[Contestant], state: str, options: argparse.Namespace) -> list[Row]:
    """Rows of all contestants with the page cache warm or cold; failed ones where it cannot be dropped."""
    reason = None if state == "warm" or os.access(DROP_CACHES, os.W_OK) else f"{DROP_CACHES} cannot be written"
    times: dict[str, list[dict[str, float]]] = {contestant.kind: [] for contestant in contestants}
    for index in range(0 if reason else options.rounds + 1):
        for contestant in contestants:
            if state == "cold":
                drop_caches()
            if contestant.failure is None and (once := start(contestant, options.threads)) and index:  # the first is not counted
                times[contestant.kind].append(once)
    return [row_of(contestant, state, times[contestant.kind], contestant.failure or reason) for contestant in contestants]


def start(contestant: Contestant, threads: int) -> dict[str, float] | None:
    """One process from its start to its first token; None where it failed, with the reason in the contestant."""
    assert contestant.path is not None
    try:
        started = time.perf_counter()
        worker = Worker(contestant.engine, contestant.path, threads, contestant.path.with_name("startup.log"))
        answer = worker.generate(PROMPT, 0)
        total = time.perf_counter() - started
    except FailureError as failure:
        contestant.failure = str(failure)
        return None
    contestant.about = worker.loaded["about"]
    worker.close()
    load, prefill = worker.loaded["seconds"], answer["prefill_seconds"]
    return {
        "first_token_seconds": total,
        "imports_seconds": total - load - prefill,
        "load_seconds": load,
        "prefill_seconds": prefill,
        "rss_after_load_bytes": worker.loaded["rss_bytes"],
        "peak_rss_bytes": answer["peak_rss_bytes"],
        "torch_imported": worker.loaded["torch"],
    }


def row_of(contestant: Contestant, state: str, times: list[dict[str, float]], reason: str | None) -> Row:
    """Medians of the rounds; null figures where there are none."""
    row: Row = {"engine": contestant.engine.name, "label": contestant.engine.label, "type": contestant.kind, "cache": state}
    row |= {"status": "failed" if reason else "ok", "reason": reason, "about": contestant.about}
    if reason:
        return row
    assert contestant.path is not None
    size = file_bytes(contestant.path)
    row |= {"file_bytes": size, "bpw_file": 8 * size / parameters(MODELS[MODEL])}
    row |= {key: statistics.median(once[key] for once in times) for key in times[0]}
    row["torch_imported"] = any(once["torch_imported"] for once in times)
    return row | {"resident_share_of_file": row["rss_after_load_bytes"] / size, "samples": [once["first_token_seconds"] for once in times]}


def drop_caches() -> None:
    """Empties the page cache, as far as it is written."""
    os.sync()
    DROP_CACHES.write_text("3")


def print_table(rows: list[Row]) -> None:
    print(f"{'engine':10} {'type':8} {'cache':5} {'MB':>6} {'first token':>11} {'imports':>8} {'load':>6} {'prefill':>8} {'resident':>9}")
    for row in rows:
        head = f"{row['label']:10} {row['type']:8} {row['cache']:5}"
        if row["status"] == "failed":
            print(f"{head} failed: {row['reason']}")
            continue
        parts = f"{row['imports_seconds']:6.2f} s {row['load_seconds']:4.2f} s {row['prefill_seconds']:6.3f} s"
        print(
            f"{head} {row['file_bytes'] / 1e6:6.0f} {row['first_token_seconds']:9.2f} s {parts}"
            f"   {row['resident_share_of_file']:.2f} × file"
        )


if __name__ == "__main__":
    raise SystemExit(main())
