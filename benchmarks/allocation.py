"""Sharing out bits by sensitivity: against one scheme for all at the same size, and predicted losses against measured ones.

    python benchmarks/allocation.py [--models quill-0.4m quill-1.3m quill-4.5m] [--methods measured predicted] [--json FILE]

For each model and way of finding losses:

    targets   the size of each uniform scheme is the target; KL of both plans on the held-out books, linear layers only, packed folder
              decoded to float32
    random    random plans (a scheme drawn for each weight; half of them all of one size, within 0.1 bits) encoded with the inputs of the
              original model; rank correlation of the predicted KL with the one measured on text that neither saw

The ladder has scalar codes alone, so that one scheme for all and the plans differ in nothing but who gets what. What `kbit quantize
--target-bpw` makes, trellis codes and all, is in `benchmarks/quality.py --table`. Losses are kept in --work, and taken up again from there.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import machine
from kbit.allocate.budget import for_bpw
from kbit.allocate.decide import BASE
from kbit.allocate.encodings import observe_units
from kbit.allocate.ladder import candidates
from kbit.allocate.search import find_sensitivity
from kbit.allocate.sensitivity import Sensitivity
from kbit.allocate.units import Unit, find_units
from kbit.calibrate import CalibrationText, CalibrationWindows
from kbit.calibrate.walk import LayerWalk
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme, TensorKind
from kbit.evaluate import ReferenceLogits, compare, read_text, tokenize
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.model import decode, quantize_folder
from kbit.model.load import load_ordinary
from kbit.store.folder import open_model
from quality import CONTEXT, DATA, spread, training_excerpt

FREE = ("default",)
UNIFORM = ("kmeans2:g64+imp+gptq", "kmeans3:g64+imp+gptq", "kmeans4:g128+imp+gptq")
#: what random plans are made of
DRAWN = ("kmeans2:g64+imp+gptq", "kmeans3:g128+imp+gptq", "kmeans4:g128+imp+gptq", "kmeans5:g128+imp+gptq", "kmeans6:g128+imp+gptq")


def scalar_codes(kind: TensorKind) -> list[Scheme]:
    return [scheme for scheme in candidates(kind, calibrated=True, goal="time") if scheme.grid != "trellis" and scheme.dims == 1]


class Bench:
    """One model with its texts."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.folder, self.options = name, DATA / "models" / name, options
        self.text = CalibrationText((options.text,), tokens=options.tokens)
        with open_model(self.folder) as stored:
            self.units = find_units(stored, BASE, FREE, scalar_codes)
        self.windows: CalibrationWindows = CalibrationText((options.text,)).windows(load_tokenizer(self.folder), positions=CONTEXT)
        self.scored = spread(tokenize(read_text(DATA / "text" / "books-heldout"), load_tokenizer(self.folder)), options.windows)
        self.reference = ReferenceLogits.compute(load_causal_model(self.folder), self.scored)

    def sensitivity(self, method: str) -> tuple[Sensitivity, float]:
        """Losses, and the seconds that finding them took (those that are kept from before take none)."""
        started = time.perf_counter()
        with open_model(self.folder) as stored:
            journal = self.options.work / f"{self.name}-{method}.journal"
            found = find_sensitivity(stored, self.units, self.windows, method=method, journal=journal)  # type: ignore[arg-type]
        return found, time.perf_counter() - started

    def kl(self, plan: Plan | str, key: str) -> tuple[float, float]:
        """(bits a weight, KL on the held-out books) of a plan."""
        folder = self.options.work / "packed"
        packed = quantize_folder(self.folder, folder, plan, calibration=self.text, progress=False, overwrite=True, resume=False)
        found = compare(decode(folder), self.reference, self.scored).divergence.kl_mean.value
        print(f"  {key:<44}{packed.bpw:>8.4f}{found:>10.5f}", flush=True)
        return packed.bpw, found


def main() -> int:
    options = arguments()
    facts = machine.print_header("sharing out bits by sensitivity")
    with tempfile.TemporaryDirectory(prefix="kbit-allocation-") as scratch:
        options.work = options.work or Path(scratch)
        options.work.mkdir(parents=True, exist_ok=True)
        options.text = training_excerpt(options.work)
        models = [run(Bench(name, options), options) for name in options.models]
    machine.save(
        options.json, {"benchmark": "allocation", "machine": facts, "windows": options.windows, "tokens": options.tokens, "models": models}
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quill-0.4m", "quill-1.3m", "quill-4.5m"])
    parser.add_argument("--methods", nargs="+", default=["measured", "predicted"])
    parser.add_argument("--uniform", nargs="*", default=list(UNIFORM))
    parser.add_argument("--random", type=int, default=40, help="random plans")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the calibration text when plans are encoded")
    parser.add_argument("--work", type=Path, help="folder to keep losses in")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    print(f"{bench.name}: {len(bench.units)} weights")
    found: dict[str, Any] = {"model": bench.name, "weights": len(bench.units), "sensitivity": {}}
    tables = {method: bench.sensitivity(method) for method in options.methods}
    for method, (table, seconds) in tables.items():
        found["sensitivity"][method] = {"seconds": seconds, "tokens": table.tokens}
    losses = {method: table for method, (table, _) in tables.items()}
    if options.random:
        found["random"] = correlations(bench, losses, options.random)
    found["targets"] = [against_uniform(bench, scheme, losses) for scheme in options.uniform]
    return found


def against_uniform(bench: Bench, scheme: str, tables: dict[str, Sensitivity]) -> dict[str, Any]:
    bpw, kl = bench.kl(scheme, scheme)
    row: dict[str, Any] = {"uniform": scheme, "bpw": bpw, "kl": kl, "allocated": {}}
    for method, table in tables.items():
        chosen = for_bpw(bench.units, table, bpw, base=BASE, free=FREE)
        got, shared = bench.kl(chosen.plan, f"shared out by losses {method}")
        row["allocated"][method] = {"bpw": got, "kl": shared, "predicted_kl": chosen.predicted_kl, "gain": 1 - shared / kl}
        print(f"    {1 - shared / kl:+.1%} less than {scheme}", flush=True)
    return row


def correlations(bench: Bench, tables: dict[str, Sensitivity], count: int) -> dict[str, Any]:
    """Rank correlation of predicted with measured KL over random plans."""
    random = np.random.default_rng(3)
    plans = [draw(bench.units, random, None if index % 2 else 3.5) for index in range(count)]
    measured = measure_plans(bench, plans)
    groups = {"any size": np.arange(1, count, 2), "one size": np.arange(0, count, 2)}
    found: dict[str, Any] = {"measured": measured}
    for method, table in tables.items():
        predicted = [table.predict(plan) for plan in plans]
        found[method] = {"predicted": predicted, "all": rank_correlation(predicted, measured)}
        for group, places in groups.items():
            found[method][group] = rank_correlation([predicted[i] for i in places], [measured[i] for i in places])
        figures = ", ".join(f"{key} {found[method][key]:.3f}" for key in ("all", *groups))
        print(f"  rank correlation, losses {method}: {figures}", flush=True)
    return found


def draw(units: Sequence[Unit], random: np.random.Generator, bpw: float | None) -> dict[str, Scheme]:
    """A scheme for each weight; with `bpw`, drawn until the size is within 0.1 bits of it."""
    weights = sum(unit.weights for unit in units)
    while True:
        center = random.uniform(0, 4)
        picks = {}
        for unit in units:
            drawn = [unit.schemes.index(Scheme.parse(text).for_row(unit.shape[-1])) for text in DRAWN]
            picks[unit.name] = drawn[int(np.clip(round(random.normal(center, 1.5)), 0, len(drawn) - 1))]
        size = sum(unit.sizes[picks[unit.name]] for unit in units)
        if bpw is None or abs(8 * size / weights - bpw) < 0.1:
            return {unit.name: unit.schemes[picks[unit.name]] for unit in units}


@torch.no_grad()
def measure_plans(bench: Bench, plans: Sequence[dict[str, Scheme]]) -> list[float]:
    """KL of whole models on held-out windows, every weight encoded by the inputs of the original."""
    model = load_ordinary(bench.folder, dtype=torch.float32).eval()
    decoded: dict[tuple[str, Scheme], np.ndarray[Any, Any]] = {}
    targets = {}
    with LayerWalk(model, torch.from_numpy(bench.windows.ids[:64])) as walk:
        walk.start()
        for _, layer in observe_units(model, bench.units, walk):
            for seen in layer:
                targets[seen.unit.name] = seen.target
                for scheme in {plan[seen.unit.name] for plan in plans}:
                    decoded[seen.unit.name, scheme] = seen.encode(scheme).dequantize()
    windows = spread(tokenize(read_text(DATA / "text" / "books-heldout"), load_tokenizer(bench.folder)), 8)
    reference = ReferenceLogits.compute(model, windows)
    found = []
    for plan in plans:
        for name, scheme in plan.items():
            model.get_parameter(targets[name].parameter).copy_(torch.from_numpy(decoded[name, scheme]))
        found.append(compare(model, reference, windows).divergence.kl_mean.value)
    return found


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    raise SystemExit(main())
