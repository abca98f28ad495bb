"""A study killed with SIGKILL at random moments and resumed: are its rows those of an uninterrupted one, times apart?

    python benchmarks/study_resume.py [--kills 20] [--workers 1] [--cluster] [--json FILE]

Each kill falls at a random moment after up to three more rows than the last one left, so that it meets cells that are being measured,
encoded, or written down; the workers of a killed study end with it. With --cluster the rows are held against those of a local Ray cluster.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import machine
from kbit.core.errors import KbitError
from kbit.study.plan import StudyPlan
from kbit.study.run import run_study
from kbit.study.store import StudyStore

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TIMES = {"seconds", "quantize_seconds", "evaluate_seconds", "peak_rss_bytes"}
PLAN = """
name = "resume"
[text]
paths = ["{books}"]
dataset = "books"
windows = 1
[calibration]
paths = ["calibration.txt"]
tokens = 2048
[[models]]
path = "{data}/models/quill-0.4m"
[[schemes]]
grids = ["int", "nf", "kmeans"]
bits = [2, 3]
group_sizes = [64]
methods = ["", "imp+gptq"]
"""
WORKER = """
import sys
import torch
torch.set_num_threads(1)
import kbit.study.local, kbit.study.cluster, kbit.study.measure
from kbit.evaluate.models import load_causal_model
from pathlib import Path
from kbit.study.plan import StudyPlan
from kbit.study.run import run_study
plan = StudyPlan.read(sys.argv[1])
load_causal_model(plan.models[0].path)  # what is imported late, too
print("ready", flush=True)
run_study(plan, sys.argv[2], workers=int(sys.argv[3]))
"""


def main() -> int:
    options = arguments()
    facts = machine.print_header("studies killed and resumed")
    with tempfile.TemporaryDirectory(prefix="kbit-study-resume-") as scratch:
        work = Path(scratch)
        plan = work / "plan.toml"
        plan.write_text(PLAN.format(data=DATA, books=files("kbit").joinpath("data", "books")))
        (work / "calibration.txt").write_text((DATA / "text" / "wiki.valid.raw").read_text()[:100_000])
        started = time.monotonic()
        assert run(plan, work / "whole.db", options.workers, None)
        seconds = time.monotonic() - started
        expected = rows(plan, work / "whole.db")
        print(f"{len(expected)} cells in {seconds:.1f} s", flush=True)
        kills, rounds, different = 0, 0, 0
        draw = random.Random(options.seed)
        while kills < options.kills:
            rounds += 1
            store = work / f"killed-{rounds}.db"
            while kills < options.kills and not run(
                plan, store, options.workers, (draw.randint(0, 3), draw.uniform(0, seconds / len(expected)))
            ):
                kills += 1
                print(f"kill {kills:3}  round {rounds}  {count(store)} rows on the disk", flush=True)
            run(plan, store, options.workers, None)
            different += rows(plan, store) != expected
        result: dict[str, Any] = {"cells": len(expected), "kills": kills, "rounds": rounds, "rounds_that_differ": different}
        if options.cluster:
            run_study(plan, work / "ray.db", cluster="local")
            result["cluster_rows_equal"] = rows(plan, work / "ray.db") == expected
    print(", ".join(f"{name} {value}" for name, value in result.items()))
    machine.save(options.json, {"benchmark": "study_resume", "machine": facts, "workers": options.workers, **result})
    return 1 if different or not result.get("cluster_rows_equal", True) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="hold a local Ray cluster's rows against them")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(plan: Path, store: Path, workers: int, kill_after: tuple[int, float] | None) -> bool:
    """Whether the study came to its end before it was killed, so many rows and seconds after its imports."""
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(plan), str(store), str(workers)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        if kill_after is not None:
            rows_more, seconds = kill_after
            before = count(store)
            while process.poll() is None and count(store) < before + rows_more:
                time.sleep(0.02)
        code = process.wait(None if kill_after is None else seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    finally:
        process.stdout.close()
    assert code == 0, f"the study ended with {code}"
    return True


def rows(plan: Path, store: Path) -> list[dict[str, Any]]:
    """Rows of a study that has them all, without times."""
    found = run_study(StudyPlan.read(plan), store, workers=1)
    assert found.measured == 0
    assert not found.failed
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found.rows]


def count(store: Path) -> int:
    """Rows on the disk, also of a study that runs."""
    try:
        with StudyStore(store, reading=True) as opened:
            return len(opened.status("quality"))
    except KbitError:  # not there, or being made
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
