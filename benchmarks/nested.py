"""One file of nested codes, run at every k, beside an encoding of its own for each k: KL divergence from the original.

    python benchmarks/nested.py [--models DIR …] [--schemes nested8:g64 …] [--windows 32] [--json FILE] [--keep FILE]

Linear layers only, held-out books, in kbit's engine in exact mode, as in `quality.py`. The encodings beside are of the k-means grid with
the same options and methods, the best one of k bits that no other k restrains.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from kbit.calibrate import CalibrationText
from kbit.core.scheme import Scheme
from kbit.evaluate import ReferenceLogits, compare, read_text, tokenize
from kbit.evaluate.engine_logits import EngineLogits
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.evaluate.size import stored_size
from kbit.model import quantize_folder
from quality import CONTEXT, DATA, spread, training_excerpt

MODELS = [DATA / "models" / name for name in ("quill-0.4m", "quill-1.3m", "quill-4.5m")]


def main() -> int:
    options = arguments()
    facts = machine.print_header(f"nested codes at every k: linear layers, {options.windows} windows of {CONTEXT} tokens")
    rows = [
        row | {"commit": facts["commit"]}
        for scheme in options.schemes
        for model in options.models
        for row in measure(model, scheme, options)
    ]
    rows = kept(options, rows) + rows
    settings = {"windows": options.windows, "context": CONTEXT, "runner": "engine, exact mode"}
    machine.save(options.json, {"benchmark": "nested", "machine": facts, **settings, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=MODELS)
    parser.add_argument("--schemes", nargs="+", default=["nested8:g64"])
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the calibration text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="results whose rows of other models and schemes are kept")
    return parser.parse_args()


def kept(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier run that were not measured again; each says at which commit it was."""
    if options.keep is None:
        return []
    earlier = json.loads(options.keep.read_text())
    again = {(row["model"], row["scheme"]) for row in rows}
    commit = {"commit": earlier["machine"]["commit"]}
    return [commit | row for row in earlier["rows"] if (row["model"], row["scheme"]) not in again]


def measure(model: Path, text: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    scheme = Scheme.parse(text)
    rows = []
    with tempfile.TemporaryDirectory(prefix="kbit-nested-") as folder:
        work = Path(folder)
        calibration = CalibrationText((training_excerpt(work),), tokens=options.tokens)
        windows = spread(tokenize(read_text(DATA / "text" / "books-heldout"), load_tokenizer(model)), options.windows)
        reference = ReferenceLogits.compute(load_causal_model(model), windows)

        def divergence(path: Path, bits: int | None) -> float:
            return compare(EngineLogits.load(path, mode="exact", bits=bits), reference, windows).divergence.kl_mean.value

        nested = work / "nested"
        quantize_folder(model, nested, scheme, calibration=calibration, progress=False)
        for bits in range(2, scheme.bits + 1):
            alone = work / f"alone{bits}"
            quantize_folder(model, alone, replace(scheme, grid="kmeans", bits=bits), calibration=calibration, progress=False)
            row = {"model": model.name, "scheme": text, "k": bits}
            row |= {"bpw": stored_size(nested, bits).bpw, "bpw_alone": stored_size(alone).bpw}
            nested_kl, alone_kl = divergence(nested, bits), divergence(alone, None)
            rows.append(row | {"kl_nested": nested_kl, "kl_alone": alone_kl, "times_alone": nested_kl / alone_kl})
            figures = f"KL {nested_kl:.6f}, encoded alone {alone_kl:.6f}  {nested_kl / alone_kl - 1:+.1%}"
            print(f"{model.name:12}{text:24} k = {bits}  {row['bpw']:.3f} bpw  {figures}", flush=True)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
