"""What `benchmarks/quality_table.py` measured, for people: kbit's best beside the best of the others, the tables of a page, and a plot.

    python benchmarks/quality_report.py RESULTS.json [--docs docs/quality.md] [--plot docs/images/quality.svg]

A page has a line ``<!-- quality: NAME -->`` before each table that comes from here and ``<!-- quality: end -->`` after it.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quality_ablation
from kbit.charts.svg import Panel, Point, Series, standalone
from quality_text import change, frontier_kl, kl, markdown

__all__ = ["TARGETS", "comparison", "print_comparison", "write_docs", "write_plot"]

Row = dict[str, Any]

#: sizes that tools are compared at, bits a weight
TARGETS = (2.1, 2.5, 3.1, 3.5, 4.1, 4.5, 5.0, 6.0)
KBIT = ("kbit recipe", "kbit")
#: most bits a weight that the plot shows
_MOST_BITS = 6.7


def comparison(rows: Sequence[Row]) -> list[Row]:
    """At each target: kbit's best row of at most so many bits, the others' best of at most so many, and what a line through the log KL of
    the others' frontier gives at the bits that kbit's row really stores; None where there is none.
    """
    ours, others = [row for row in rows if row["tool"] in KBIT], [row for row in rows if row["tool"] not in KBIT]
    found = []
    for target in TARGETS:
        best, beside = (
            min((row for row in group if row["bpw"] <= target + 1e-9), key=lambda row: row["kl_mean"], default=None)
            for group in (ours, others)
        )
        if best is None:
            continue
        along = frontier_kl(others, best["bpw"])
        line: Row = {"target_bpw": target, "kbit": best["name"], "bpw": best["bpw"], "kl_mean": best["kl_mean"]}
        if beside is not None:
            line |= {"other": f"{beside['tool']} {beside['name']}", "other_bpw": beside["bpw"], "other_kl_mean": beside["kl_mean"]}
            line["ratio"] = best["kl_mean"] / beside["kl_mean"]
        found.append(line | {"frontier_kl": along, "frontier_ratio": None if along is None else best["kl_mean"] / along})
    return found


def print_comparison(found: Sequence[Row]) -> None:
    for line in found:
        beside = (
            f"{line['other']} {line['other_bpw']:.3f} bpw {line['other_kl_mean']:.5f}: {change(line['ratio'])}" if "other" in line else "–"
        )
        along = "–" if line["frontier_kl"] is None else f"{line['frontier_kl']:.5f}: {change(line['frontier_ratio'])}"
        best = f"{line['kbit']} {line['bpw']:.3f} bpw {line['kl_mean']:.5f}"
        print(f"{line['target_bpw']:g} bits: {best}; best other {beside}; at its bits {along}")


def write_plot(path: Path, result: Row) -> None:
    """KL and perplexity against bits, a series a tool."""
    rows = [row for row in result["rows"] if row["bpw"] <= _MOST_BITS]
    panels = []
    for title, label, figure in (
        ("KL divergence, held-out books", "nats a token", "kl_mean"),
        ("Perplexity, held-out books", "perplexity", "perplexity"),
    ):
        baseline = (rows[0]["reference_perplexity"], "16 bits") if figure == "perplexity" else None
        ceiling = 1.3 * baseline[0] if baseline else math.inf
        series = (
            _series("kbit recipes", [row for row in rows if row["tool"] == "kbit recipe"], figure, 0, joined=True),
            _series("kbit, one scheme", [row for row in rows if row["part"] == "uniform"], figure, 3),
            _series("llama.cpp", [row for row in rows if row["tool"] == "llama.cpp"], figure, 1),
            _series("HQQ, NF4", [row for row in rows if row["tool"] in ("HQQ", "bitsandbytes")], figure, 4),
            _series("GPTQ", [row for row in rows if row["tool"] == "GPTQ"], figure, 2),
        )
        panels.append(
            Panel(title, "stored bits a weight", label, tuple(one for one in series if one.points), baseline=baseline, ceiling=ceiling)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(standalone(panels), encoding="utf-8")
    print(f"wrote {path}")


def _series(name: str, rows: Sequence[Row], figure: str, colour: int, *, joined: bool = False) -> Series:
    points = tuple(
        Point(row["bpw"], row[figure], f"{row['tool']} {row['name']}: {row['bpw']:.3f} bpw, {row[figure]:.4f}")
        for row in sorted(rows, key=lambda row: row["bpw"])
    )
    return Series(name, points, "both" if joined else "marks", colour)


def write_docs(path: Path, result: Row) -> None:
    """Write the tables of a page anew."""
    text = path.read_text(encoding="utf-8")
    for name, table in _tables(result).items():
        marks = re.compile(rf"(<!-- quality: {name} -->\n).*?(<!-- quality: end -->)", re.DOTALL)
        text, count = marks.subn(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)  # type: ignore[misc]
        print(f"{path}: {name}: {count} tables")
    path.write_text(text, encoding="utf-8")


def _tables(result: Row) -> dict[str, str]:
    rows = result["rows"]
    return {
        "sizes": _sizes(result["comparison"]),
        "recipes": _recipes(rows),
        "rows": _rows(rows),
        **quality_ablation.tables(rows),
    }


def _sizes(found: Sequence[Row]) -> str:
    lines = []
    for line in found:
        beside = f"{line['other']} ({line['other_bpw']:.2f})" if "other" in line else "–"
        figures = [
            kl(line["kl_mean"]),
            beside,
            kl(line.get("other_kl_mean")),
            change(line.get("ratio")),
            change(line["frontier_ratio"]),
        ]
        lines.append([f"{line['target_bpw']:g}", f"`{line['kbit']}` ({line['bpw']:.3f})", *figures])
    return markdown(["bits", "kbit's best (bpw)", "KL", "best other of that size (bpw)", "KL", "", "at the same bits"], lines)


def _recipes(rows: Sequence[Row]) -> str:
    others = [row for row in rows if row["tool"] not in KBIT]
    lines = []
    for row in (row for row in rows if row["tool"] == "kbit recipe"):
        beside = frontier_kl(others, row["bpw"])
        ratio = None if beside is None else row["kl_mean"] / beside
        figures = [kl(row["kl_mean"]), kl(row["predicted_kl"]), kl(beside), change(ratio)]
        lines.append([f"{row['target_bpw']:g}", f"{row['bpw']:.3f}", *figures])
    return markdown(["target, bpw", "stored", "KL", "predicted", "best other tool at these bits", ""], lines)


def _rows(rows: Sequence[Row]) -> str:
    shown = sorted((row for row in rows if row["part"] != "ablation"), key=lambda row: (row["bpw"], row["kl_mean"]))
    lines = [
        [
            row["tool"],
            f"`{row['name']}`" if row["tool"] in KBIT else row["name"],
            f"{row['bpw']:.3f}",
            kl(row["kl_mean"]),
            f"{row['top1_agreement']:.3f}".removeprefix("0"),
            f"{row['perplexity']:.2f}",
            kl(row["wikitext2_kl_mean"]),
            f"{row['wikitext2_perplexity']:.1f}",
        ]
        for row in shown
    ]
    return markdown(["tool", "scheme", "bpw", "KL", "top-1", "perplexity", "KL, WikiText-2", "perplexity, WikiText-2"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    result = json.loads(options.results.read_text())
    print_comparison(result["comparison"])
    if options.plot:
        write_plot(options.plot, result)
    if options.docs:
        write_docs(options.docs, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
