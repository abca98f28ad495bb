"""What the laws are worth: held-out errors of each form, coverage of intervals, advice against truth, an unseen data type.

    python benchmarks/laws.py --json benchmarks/results/laws.json
    python benchmarks/laws.py --rows studies/quill.csv --json benchmarks/results/laws_quill.json
    python benchmarks/laws.py --rows studies/quill.csv --beyond studies/quill-105m.csv --json benchmarks/results/laws_beyond.json
    python benchmarks/laws.py --default src/kbit/data/laws.json       # fit the laws that come with the package

Rows are published ones (`tests/study/published.csv`: tables of the GPTQ paper and repository and of llama.cpp, each row with its source) or
those of a study, and for the time of a token those of `benchmarks/results/engine.json`. Every figure is of models, or of data types, that
were not in the fit.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from advice import judge_advice
from checkpoint import parameters
from kbit.study.book import LawBook
from kbit.study.fitting import Fitting, error_columns, fit_laws
from kbit.study.laws.gaussian_error import row_error
from kbit.study.laws.latency import LatencyLaw
from kbit.study.predict import predict_rows
from kbit.study.rows import Row
from kbit.study.tables import read_rows
from machine import print_header, save
from peers.files import MODELS

ROOT = Path(__file__).resolve().parent
PUBLISHED = ROOT.parent / "tests" / "study" / "published.csv"
ENGINE = ROOT / "results" / "engine.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=PUBLISHED)
    parser.add_argument("--budgets", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beyond", type=Path, help="only hold the laws of --rows against rows of other models of the same family")
    parser.add_argument("--default", type=Path, help="only fit the laws that come with the package, and keep them here")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    if options.default:
        book = LawBook.of(fit_laws(rows, draws=200))
        rounded = replace(book, latency=LatencyLaw.fit(speed_rows()), provenance={**book.provenance, "table": "tests/study/published.csv"})
        rounded.save(options.default)
        print(f"wrote {options.default}: {rounded.latency}")
        return
    header = print_header("laws")
    if options.beyond:
        facts = {"benchmark": "laws beyond", "machine": header, "rows": len(rows), "models": len({row.model for row in rows})}
        save(options.json, facts | {"beyond": beyond(rows, read_rows(options.beyond))})
        return
    fitting = fit_laws(rows, draws=0)
    result = {
        "benchmark": "laws",
        "machine": header,
        "rows": len(rows),
        "models": len({row.model for row in rows}),
        "forms": forms(fitting),
        "outliers": [
            {"row": f"{miss.row.family} {miss.row.params} {miss.row.precision}", "perplexity": miss.row.perplexity, "error": miss.error}
            for miss in fitting.outliers()
        ],
        "coverage": coverage(rows),
        "unseen": unseen(rows),
        "latency": latency(rows),
        "advice": judge_advice(rows, options.budgets, four_bit=four_bits(rows)),
    }
    print(json.dumps({name: result[name] for name in ("coverage", "unseen", "latency", "advice")}, indent=1))
    save(options.json, result)


def beyond(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """Rows of models that no law has seen, predicted from their size and scheme: errors of log perplexity, and rows in their interval.

    Damage is what a row loses beside its own original, predicted and measured alike: it does not depend on how well that one was foretold.
    """
    said = predict_rows(LawBook.of(fit_laws(rows, draws=0)), others)
    log = {
        (row.model, row.precision): (float(np.log(one.perplexity)), float(np.log(row.perplexity or 0)))
        for row, one in zip(others, said, strict=True)
    }
    originals = {row.model: log[row.model, row.precision] for row in others if row.is_original}
    cells = []
    for row, one in zip(others, said, strict=True):
        predicted, measured = log[row.model, row.precision]
        cell = {
            "params": row.params,
            "precision": row.precision,
            "measured": row.perplexity,
            **one.to_json(),
            "error": predicted - measured,
        }
        cell["inside"] = one.low <= (row.perplexity or 0) <= one.high
        if not row.is_original:
            cell |= {"damage": measured - originals[row.model][1], "predicted_damage": predicted - originals[row.model][0]}
        cells.append(cell | {"group": "16 bits" if row.is_original else f"{row.method} {row.bits:g}"})
    table: dict[str, Any] = {}
    for group in dict.fromkeys(cell["group"] for cell in cells):
        of = [cell for cell in cells if cell["group"] == group]
        table[group] = {
            "rows": len(of),
            "error": _median([abs(cell["error"]) for cell in of]),
            "inside": sum(cell["inside"] for cell in of),
        }
        if "damage" in of[0]:
            table[group] |= {
                "damage": _median([cell["damage"] for cell in of]),
                "damage_error": _median([abs(cell["predicted_damage"] - cell["damage"]) for cell in of]),
            }
        print(group, table[group])
    return {"groups": table, "cells": cells}


def forms(fitting: Fitting) -> list[dict[str, Any]]:
    """Held-out medians of each form by precision, over models inside of the range of sizes and over all."""
    table = []
    names, column_of = error_columns(fitting.laws)
    for one in fitting.laws:
        precisions: dict[str, Any] = {}
        for name in names:
            of = [miss for miss in one.misses if column_of(miss.row) == name]
            inside = [abs(miss.error) for miss in of if miss.beyond == 0]
            precisions[name] = {"inside": _median(inside), "inside_rows": len(inside), "all": _median([abs(miss.error) for miss in of])}
        table.append({"form": one.law.form, "formula": one.law.formula, "heldout_error": one.heldout_error, "precisions": precisions})
        medians = "  ".join(f"{name} {figures['inside']:.4f}" for name, figures in precisions.items() if figures["inside"] is not None)
        print(f"{one.law.form:<10} {one.heldout_error:.4f}   inside: {medians}")
    return table


def coverage(rows: Sequence[Row]) -> dict[str, Any]:
    """Each model left out of everything, widths of intervals included: how many of its rows lie in their 90 % interval."""
    hits: dict[str, list[bool]] = {"inside": [], "outside": []}
    widths: dict[str, list[float]] = {}
    for model in _models(rows):
        left = [row for row in rows if row.model == model]
        book = LawBook.of(fit_laws([row for row in rows if row.model != model], draws=0))
        for row, said in zip(left, predict_rows(book, left), strict=True):
            hits["outside" if said.note else "inside"].append(said.low <= (row.perplexity or 0) <= said.high)
            widths.setdefault(row.precision, []).append(float(np.log(said.high / said.low) / 2))
    both = hits["inside"] + hits["outside"]
    shares = {name: {"rows": len(found), "covered": float(np.mean(found))} for name, found in (*hits.items(), ("all", both))}
    return {**shares, "half_width_nats": {name: float(np.median(found)) for name, found in widths.items() if len(found) > 2}}


def unseen(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A data type (where rows name them; else a precision) left out of the fit, predicted by its error on normal weights alone."""
    found = []
    for name, left in left_out(rows):
        gone = {id(row) for row in left}
        rest = [row for row in rows if id(row) not in gone]
        law = fit_laws(rest, "gaussian", draws=0).laws[0].law
        errors = np.abs(law.predict(left) - np.log([row.perplexity for row in left]))
        base = np.abs(law.predict([replace(row, method="none", bits=16) for row in left]) - np.log([row.perplexity for row in left]))
        entry = {
            "left_out": name,
            "rows": len(left),
            "median_error": _median(list(errors)),
            "without_damage": _median(list(base)),
        }
        found.append(entry)
    return found


def left_out(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """What `unseen` leaves out in turn: each data type in 3, 4 and 5 bits where rows name several, else methods and bits as published."""
    known = [row for row in rows if row_error(row) is not None]
    grids = sorted({str(row.extra["grid"]) for row in known if "grid" in row.extra and not row.is_original})
    if len(grids) < 2:
        names = [("gptq", 4), ("gptq", 3), ("rtn", 4)]
        return [(f"{method} {bits}", [row for row in known if row.method == method and row.bits == bits]) for method, bits in names]
    methods = sorted({row.method for row in known if not row.is_original})
    cells = [(method, grid, bits) for method in methods for grid in grids for bits in (3, 4, 5)]
    found = [
        (f"{method} {grid}{bits}", [row for row in known if (row.method, row.extra.get("grid"), row.bits) == (method, grid, bits)])
        for method, grid, bits in cells
    ]
    return [(name, left) for name, left in found if left]


def four_bits(rows: Sequence[Row]) -> tuple[str, ...]:
    """Precisions that "the largest 4-bit that fits" takes: published GPTQ, or four bits of normal floats at groups of 64."""
    return tuple({row.precision for row in rows if row.precision in ("gptq 4", "imp+gptq nf4:g64")})


def speed_rows() -> list[Row]:
    """Rows of kbit in `engine.json`."""
    out = []
    for cell in json.loads(ENGINE.read_text())["rows"]:
        if cell["engine"] != "kbit" or cell["status"] != "ok":
            continue
        config = MODELS[cell["model"]]
        params = parameters(config)
        extra: dict[str, float | str] = {name: cell[name] for name in ("file_bytes", "decode_tokens_per_s", "memory_roof_gb_per_s")}
        extra |= {"int8_roof_gmac_per_s": cell["int8_roof_gmac_per_s"], "layers": config["num_hidden_layers"], "threads": cell["threads"]}
        extra |= {"model": cell["model"], "scheme": cell["type"]}
        bits = int(cell["type"].partition(":")[0][-1])
        out.append(Row("engine", params, "nearest", bits, 64, cell["bpw_file"], "speed", 512, None, "engine.json", extra))
    return out


def latency(rows: Sequence[Row]) -> dict[str, Any]:
    """The law of a token's time: coefficients, and its error on cells left out; of `engine.json`, of the table's, of both."""
    cells = {(row.model, row.extra.get("speed_scheme"), row.extra.get("threads")): row for row in rows if row.number("decode_tokens_per_s")}
    found = {}
    for name, measured in (("engine", speed_rows()), ("rows", list(cells.values())), ("both", speed_rows() + list(cells.values()))):
        if measured and (cells or name == "engine"):
            law = LatencyLaw.fit(measured)
            found[name] = {"rows": len(measured), "coefficients": law.coefficients(), "median_error": law.error}
    return found


def _models(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Models whose family has others."""
    found = list(dict.fromkeys(row.model for row in rows))
    return [model for model in found if sum(other[0] == model[0] for other in found) > 1]


def _median(errors: Sequence[float]) -> float | None:
    return float(np.median(errors)) if len(errors) else None


if __name__ == "__main__":
    main()
