"""How well the losses of trellis codes follow from those of the same codes in other groups (`kbit.allocate.derived`).

    python benchmarks/derived.py [--models quill-1.3m quill-4.5m] [--work DIR] [--json FILE]

Every linear weight is encoded alone by both, by the inputs of the original model, and the KL divergence of the model is measured with it in
place. A derived loss is that in groups of 256 times the ratio of both errors of the first weight. Losses are kept in --work.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import machine
from kbit.allocate.decide import BASE
from kbit.allocate.search import find_sensitivity
from kbit.allocate.sensitivity import Loss
from kbit.allocate.units import find_units
from kbit.calibrate import CalibrationText, CalibrationWindows
from kbit.core.scheme import Scheme
from kbit.evaluate.models import load_tokenizer
from kbit.store.folder import open_model
from quality import CONTEXT, DATA, training_excerpt

BOTH = "+imp+gptq"
MODELS = ("quill-1.3m", "quill-4.5m")
PAIRS = [(f"trellis{bits}:{group}", f"trellis{bits}:g256") for bits in (2, 3) for group in ("g64", "g128", "g1024")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quill-4.5m"], choices=MODELS)
    parser.add_argument("--work", type=Path, help="folder to keep losses in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("losses of trellis codes, derived and measured")
    with tempfile.TemporaryDirectory(prefix="kbit-derived-") as scratch:
        work = options.work or Path(scratch)
        rows = [row for name in options.models for row in measure(name, work / name)]
    machine.save(options.json, {"benchmark": "derived", "machine": facts, "rows": rows})
    return 0


def measure(name: str, work: Path) -> list[dict[str, Any]]:
    work.mkdir(parents=True, exist_ok=True)
    windows = CalibrationText((training_excerpt(work),)).windows(load_tokenizer(DATA / "models" / name), positions=CONTEXT)
    rows = []
    for texts in PAIRS:
        other, partner = (losses(name, f"{text}{BOTH}", windows, work) for text in texts)
        kl, error = ((of(other, figure), of(partner, figure)) for figure in ("kl", "error"))
        ratio, first = kl[0] / kl[1], error[0][0] / error[1][0]
        rows.append(
            {
                "model": name, "scheme": texts[0], "partner": texts[1], "kl_ratio_median": float(np.median(ratio)),
                "kl_ratio_log_deviation": float(np.log(ratio).std()), "error_ratio_first": first,
                "error_ratio_median": float(np.median(error[0] / error[1])), "sum_derived_over_measured": first * kl[1].sum() / kl[0].sum(),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def losses(name: str, text: str, windows: CalibrationWindows, work: Path) -> list[Loss]:
    """Of each linear weight, in the order of the model."""
    with open_model(DATA / "models" / name) as stored:
        units = find_units(stored, BASE, ("default",), lambda _: [Scheme.parse(text)])
        journal = work / f"{text.replace(':', '-')}.journal"
        found = find_sensitivity(stored, units, windows, method="measured", journal=journal, progress=False)
    return [next(iter(found.losses[unit.name].values())) for unit in units]


def of(found: list[Loss], figure: str) -> NDArray[np.float64]:
    return np.array([getattr(loss, figure) for loss in found])


if __name__ == "__main__":
    raise SystemExit(main())
