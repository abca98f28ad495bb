"""Time and memory of the recipes on random Llamas with layers of the shape of 1B, each in a process of its own, beside what was foretold.

    python benchmarks/recipes.py --layers 16 [--json FILE]
    python benchmarks/recipes.py --layers 1 --qualities fast good best --losses predicted [--json FILE]
    python benchmarks/recipes.py --layers 16 --estimates

At 16 layers `fast` takes half a minute, `good` some forty minutes and `best` an hour; one layer shows the seconds of a layer, and how far
the estimate is right. `best` measures losses where that is quick, which it is for one layer; for sixteen it predicts them.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import machine
from checkpoint import llama, write_checkpoint, write_tokenizer
from kbit.allocate.decide import BASE, Request, decide
from kbit.allocate.estimate import Rates, estimate
from kbit.allocate.gate import Gate
from kbit.allocate.ladder import candidates
from kbit.allocate.recipes import QUALITIES, books
from kbit.allocate.units import find_units
from kbit.calibrate import CalibrationText
from kbit.calibrate.arithmetic import arithmetic_for
from kbit.core.memory import peak_rss_bytes
from kbit.model import quantize_folder
from kbit.store.folder import open_model

CALIBRATION_TOKENS = 131_072


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[16])
    parser.add_argument("--qualities", nargs="+", choices=QUALITIES, default=["fast"])
    parser.add_argument("--losses", choices=("measured", "predicted"), help="of best; by default what is quick for so many layers")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--estimates", action="store_true", help="measure nothing but what estimates are made of")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "QUALITY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(Path(options.worker[0]), options.worker[1], options.losses)))
        return 0
    facts = machine.print_header("time of the recipes")
    rows: list[dict[str, Any]] = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory(prefix="kbit-recipes-") as work:
            source = Path(work) / "source"
            write_checkpoint(source, llama(options.vocabulary, 2048, 8192, layers, 32, 8), 0)
            write_tokenizer(source, options.vocabulary)
            words = np.random.default_rng(1).integers(3, options.vocabulary, 3 * CALIBRATION_TOKENS)
            (Path(work) / "text.txt").write_text(" ".join(f"w{word}" for word in words))
            row = {"layers": layers, "estimates": estimates(source)}
            for quality in options.qualities if not options.estimates else (None,):
                rows.append(row | (run(Path(work), quality, options.losses) if quality else {}))
                machine.save(options.json, {"benchmark": "recipes", "machine": facts, "rows": rows})
    return 0


def run(work: Path, quality: str, losses: str | None) -> dict[str, Any]:
    """A recipe in a process of its own, so that its largest resident memory is its own."""
    command = [sys.executable, __file__, "--worker", str(work), quality, *(("--losses", losses) if losses else ())]
    row: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def measure(work: Path, quality: Any, losses: Any) -> dict[str, Any]:
    gate, times = Gate(work / "source", tuple(books())), []

    def timed(folder: Path) -> None:
        started = time.perf_counter()
        gate(folder)
        times.append(time.perf_counter() - started)

    started = time.perf_counter()
    text = None if quality == "fast" else CalibrationText((work / "text.txt",), tokens=CALIBRATION_TOKENS)
    method = losses if quality == "best" else None
    decision = decide(work / "source", Request(work / f"losses-{quality}.journal", quality=quality, calibration=text, method=method))
    decided = time.perf_counter() - started
    result = quantize_folder(work / "source", work / quality, decision.plan, calibration=decision.calibration, check=timed)
    assert gate.result is not None
    assert gate.result.kl is not None, gate.result.skipped
    return {
        "quality": quality, "parameters": result.parameters, "scheme": result.scheme, "bpw": result.bpw,
        "calibration_tokens": 0 if decision.calibration is None else decision.calibration.tokens,
        "decide_seconds": decided, "seconds": result.seconds - times[0], "foretold": asdict(decision.expected),
        "check_seconds": times[0], "check_tokens": gate.result.tokens, "check_kl": gate.result.kl,
        "peak_rss_bytes": peak_rss_bytes(), "estimate_bytes": result.estimate_bytes, "source_bytes": result.source_bytes,
    }  # fmt: skip


def estimates(source: Path) -> dict[str, Any]:
    """What `kbit quantize` foretells for each quality, with a calibration text of 131,072 tokens."""
    found: dict[str, Any] = {}
    with open_model(source) as stored:
        shapes = {name: tuple(stored.entry(name).shape) for name in stored.names()}
    parameters = sum(map(math.prod, shapes.values()))
    rates = Rates.measure(arithmetic_for("auto", shapes))
    for quality in QUALITIES:
        best, calibrated = quality == "best", quality != "fast"
        listed = partial(candidates, calibrated=calibrated, goal="size" if best else "one")
        with open_model(source) as stored:
            units = find_units(stored, BASE, ("default",), listed)
        tokens = CALIBRATION_TOKENS if calibrated else 0
        found[quality] = asdict(estimate(units, tokens, 512, share=best, parameters=parameters, rates=rates))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
