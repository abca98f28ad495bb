"""Time of the recipes on random Llamas with layers of the shape of 1B: `fast` and the check measured, `good` and `best` estimated.

python benchmarks/recipes.py [--layers 4 16] [--estimates] [--json FILE]
"""

import argparse
import math
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import machine
from checkpoint import llama, write_checkpoint, write_tokenizer
from kbit.allocate.decide import BASE, Request, decide
from kbit.allocate.estimate import Rates, estimate
from kbit.allocate.gate import Gate
from kbit.allocate.ladder import candidates
from kbit.allocate.recipes import QUALITIES, books
from kbit.allocate.units import find_units
from kbit.core.memory import peak_rss_bytes
from kbit.model import quantize_folder
from kbit.store.folder import open_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--estimates", action="store_true", help="measure nothing but what estimates are made of")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("time of the recipes")
    rows = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory(prefix="kbit-gate-") as work:
            rows.append((foretell if options.estimates else measure)(Path(work), layers, options.vocabulary))
        print(rows[-1], flush=True)
    machine.save(options.json, {"benchmark": "recipes", "machine": facts, "rows": rows})
    return 0


def foretell(work: Path, layers: int, vocabulary: int) -> dict[str, Any]:
    write_checkpoint(work / "source", llama(vocabulary, 2048, 8192, layers, 32, 8), 0)
    with open_model(work / "source") as stored:
        parameters = sum(math.prod(stored.entry(name).shape) for name in stored.names())
    return {"layers": layers, "parameters": parameters, "estimates": estimates(work / "source", parameters)}


def measure(work: Path, layers: int, vocabulary: int) -> dict[str, Any]:
    config = llama(vocabulary, 2048, 8192, layers, 32, 8)
    write_checkpoint(work / "source", config, 0)
    write_tokenizer(work / "source", vocabulary)
    gate, times = Gate(work / "source", tuple(books())), []

    def timed(folder: Path) -> None:
        started = time.perf_counter()
        gate(folder)
        times.append(time.perf_counter() - started)

    decision = decide(work / "source", Request(work / "journal", quality="fast", progress=False))
    result = quantize_folder(work / "source", work / "out", decision.plan, progress=False, check=timed)
    assert gate.result is not None
    assert gate.result.kl is not None, gate.result.skipped
    return {
        "layers": layers, "parameters": result.parameters, "scheme": result.scheme,
        "seconds": result.seconds - times[0], "check_seconds": times[0], "check_tokens": gate.result.tokens, "check_kl": gate.result.kl,
        "peak_rss_bytes": peak_rss_bytes(), "source_bytes": result.source_bytes,
        "estimates": estimates(work / "source", result.parameters),
    }  # fmt: skip


def estimates(source: Path, parameters: int) -> dict[str, Any]:
    """What `kbit quantize` foretells for each quality, with a calibration text of 131,072 tokens."""
    found, rates = {}, Rates.measure()
    for quality in QUALITIES:
        best, calibrated = quality == "best", quality != "fast"
        listed = partial(candidates, calibrated=calibrated, goal="size" if best else "one")
        with open_model(source) as stored:
            units = find_units(stored, BASE, ("default",), listed)
        found[quality] = asdict(estimate(units, 131_072 if calibrated else 0, 512, share=best, parameters=parameters, rates=rates))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
