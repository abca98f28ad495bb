"""What parts beside the packed matrix gain for their bits: outliers, columns, low rank, pruning, truncation.

    python benchmarks/parts.py [--model DIR] [--schemes …] [--windows 32] [--json FILE]

Measured as `benchmarks/quality.py` does. Each part stands beside the scheme without it and beside what the same bits buy otherwise:
smaller groups for outliers and low rank, fewer bits a weight for pruning. The file is written anew after each row, and rows that it holds
already are not measured again.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import machine
import quality
from kbit.calibrate import CalibrationText
from kbit.evaluate import ReferenceLogits, read_text, tokenize
from kbit.evaluate.models import load_causal_model, load_tokenizer

CALIBRATED = "+imp+gptq"
SCHEMES = [
    *(f"int3:g64{CALIBRATED}{part}" for part in ("", "+outlier0.5", "+lowrank2", "+lowrank8")),
    *(f"int4:g64{CALIBRATED}{part}" for part in ("", "+prune2:4", "+prune50")),
    *(f"int3:{other}{CALIBRATED}{part}" for other, part in (("g32", ""), ("g64", "+outlier1"), ("g64", "+outliercol1"))),
    *(f"int4:g64{methods}+prune50" for methods in ("+imp", "")),
    *(f"int2:g64{CALIBRATED}{part}" for part in ("", "+outlier1")),
    f"int3:g64+rotate{CALIBRATED}+outlier0.5",
    f"trellis2:g128{CALIBRATED}+lowrank2",
    f"int4:g64{CALIBRATED}+truncate0.05",
]


def main() -> int:
    quality.SCHEMES = SCHEMES
    options = quality.arguments()
    facts = machine.print_header(f"parts on {options.model.name}: linear layers, {options.windows} windows of {quality.CONTEXT} tokens")
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    settings = {"model": options.model.name, "windows": options.windows, "context": quality.CONTEXT, "calibration_tokens": options.tokens}
    done = {row["scheme"] for row in rows}
    with tempfile.TemporaryDirectory(prefix="kbit-parts-") as work:
        calibration = CalibrationText((quality.training_excerpt(Path(work)),), tokens=options.tokens, seed=options.seed)
        text = tokenize(read_text(quality.DATA / "text" / "books-heldout"), load_tokenizer(options.model))
        windows = quality.spread(text, options.windows)
        reference = ReferenceLogits.compute(load_causal_model(options.model), windows)
        for scheme in options.schemes:
            if scheme in done:
                continue
            rows.append(quality.measure(scheme, options, calibration, windows, reference, Path(work)))
            quality.print_row(rows[-1])
            machine.save(options.json, {"benchmark": "parts", "machine": facts, **settings, "seed": options.seed, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
