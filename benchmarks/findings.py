"""What a study of one family says: optimum k, data types, group sizes, zero points, structure, with and without error compensation.

    python benchmarks/findings.py [--rows studies/quill.csv] [--json FILE]

- optimum k: along each k's curve of loss against bits of the encoded weights (straight between sizes in the logarithm of the bits, the best
  scheme of that k at each size), which k has the least loss at a budget. Budgets are those that at least two of the k reach.
- data types, group sizes, zero points: geometric mean over the models of the KL divergence, as a ratio to that of a plain one: linear
  codes, groups of 64, no zero points. Group sizes are compared at the bits they take: log KL falls by a fixed rate a bit, and what a group
  size gains beyond its own bits is what is left.
- structure: vectors and trellises beside k-means codes of the same stored bits (a line through log KL of those within 0.8 bits).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kbit.study.rows import Row, weight_counts
from kbit.study.tables import read_rows
from machine import print_header, save

ROWS = Path(__file__).resolve().parents[1] / "studies" / "quill.csv"
BUDGETS = 200
#: codes whose bits are so near are compared along a line
NEAR_BPW = 0.8
#: rows that take more than this share of padding, since they are shorter than what is packed together, say nothing of a data type
PADDED = 0.1
TYPES = ("int", "float", "nf", "log", "quantile", "dynamic", "kmeans")
Key = tuple[Any, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = read_rows(options.rows)
    result: dict[str, Any] = {"benchmark": "findings", "machine": print_header("findings"), "rows": len(rows)}
    methods = sorted({row.method for row in rows if not row.is_original}, key=lambda method: (method != "nearest", method))
    result["optimum"] = {method: optimum(rows, method) for method in methods}
    result["data_types"] = {method: data_types(rows, method) for method in methods}
    result["group_sizes"] = {method: group_sizes(rows, method) for method in methods}
    result["zero_points"] = {method: zero_points(rows, method) for method in methods}
    result["compensation"] = compensation(rows)
    result["structure"] = structure(rows)
    save(options.json, result)


def optimum(rows: Sequence[Row], method: str) -> dict[str, Any]:
    """Share of the budgets at which each k has the least loss, and the budgets at which the best k changes."""
    counts = weight_counts(rows)
    curves: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        if row.is_original or row.method == method:
            curves.setdefault(min(row.bits, 16.0), []).append((counts[row.model] * row.bpw, float(np.log(row.perplexity or np.nan))))
    best_of = {bits: _lower_envelope(points) for bits, points in curves.items() if len(points) > 1}
    ends = sorted(bound for points in best_of.values() for bound in (points[0][0], points[-1][0]))
    grid = np.geomspace(ends[1], ends[-2], BUDGETS)
    best: list[float] = []
    for budget in grid:
        losses = {
            bits: float(np.interp(np.log(budget), [np.log(x) for x, _ in points], [y for _, y in points]))
            for bits, points in best_of.items()
            if points[0][0] <= budget <= points[-1][0]
        }
        best.append(min(losses, key=lambda bits: losses[bits]) if losses else 0.0)
    shares = {f"{bits:g}": best.count(bits) / len(best) for bits in sorted(set(best)) if bits}
    print(f"\n{method}: best k over budgets of {grid[0]:.3g} to {grid[-1]:.3g} bits of encoded weights")
    print("  " + ", ".join(f"{bits} bits {100 * share:.0f} %" for bits, share in shares.items()))
    return {"budgets_bits": [float(grid[0]), float(grid[-1])], "share_of_budgets": shares}


def _lower_envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the points of each size the best (bits of one k differ by little), by bits, without those that a smaller one beats."""
    kept: list[tuple[float, float]] = []
    for bits, loss in sorted(points):
        if not kept or loss < kept[-1][1]:
            kept.append((bits, loss))
    return kept


def data_types(rows: Sequence[Row], method: str) -> list[dict[str, Any]]:
    """KL of each data type over that of linear codes at groups of 64, by k."""
    base = _divergences(rows, method, grids=("int",))
    table = []
    print(f"\n{method}: KL of data types over int's, groups of 64")
    for kind in TYPES:
        ratios = _by_bits(base, _divergences(rows, method, grids=(kind,)))
        table.append({"grid": kind, "ratio": ratios})
        print(f"  {kind:<9}" + _line(ratios))
    return table


def group_sizes(rows: Sequence[Row], method: str) -> list[dict[str, Any]]:
    """KL of each group size over that of groups of 64, as it is and at equal bits, for linear, normal and k-means codes of 3 and 4 bits."""
    kinds = ("int", "nf", "kmeans")
    table = []
    print(f"\n{method}: KL of group sizes over groups of 64; in brackets at equal bits")
    for bits in (3, 4):
        base, finer = (_divergences(rows, method, grids=kinds, bits=k) for k in (bits, bits + 1))
        rate = _ratio({key[::2]: kl for key, kl in base.items()}, {key[::2]: kl for key, kl in finer.items()})
        for group in (32, 64, 128, -1):
            ratio = _ratio(base, _divergences(rows, method, grids=kinds, bits=bits, group_size=group))
            if ratio is None or rate is None:
                continue
            more = _mean_bpw(rows, method, kinds, bits, group) - _mean_bpw(rows, method, kinds, bits, 64)
            equal = ratio / rate**more
            table.append({"bits": bits, "group_size": group, "ratio": ratio, "ratio_at_equal_bits": equal, "more_bpw": more})
            print(f"  {bits} bits, {'a row' if group == -1 else f'g{group}':<6} {ratio:5.2f} ({equal:4.2f})")
    return table


def zero_points(rows: Sequence[Row], method: str) -> dict[str, float]:
    """KL of linear codes with zero points over that without, groups of 64, by k."""
    ratios = _by_bits(_divergences(rows, method, grids=("int",)), _divergences(rows, method, grids=("int",), zero_points=True))
    if ratios:
        print(f"\n{method}: KL with zero points over without: " + _line(ratios))
    return ratios


def compensation(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """KL with error compensation over that of the nearest level, groups of 64, by data type and k."""
    table: dict[str, dict[str, float]] = {}
    print("\nKL of imp+gptq over nearest, groups of 64")
    for kind in TYPES:
        table[kind] = _by_bits(*(_divergences(rows, method, grids=(kind,)) for method in ("nearest", "imp+gptq")))
        print(f"  {kind:<9}" + _line(table[kind]))
    return table


def structure(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """KL of vectors and trellises over that of k-means codes of the same stored bits, both with error compensation, by scheme."""
    found: dict[str, list[tuple[float, float]]] = {}
    for model in dict.fromkeys(row.model for row in rows):
        of = [row for row in rows if row.model == model and row.method == "imp+gptq"]
        line = [(row.bpw, float(np.log(float(row.extra["kl_mean"])))) for row in of if row.extra["grid"] == "kmeans"]
        for row in of:
            near = [(bpw, kl) for bpw, kl in line if abs(bpw - row.bpw) < NEAR_BPW]
            padded = float(row.extra["padding_bytes"]) > PADDED * float(row.extra["codes_bytes"])
            if str(row.extra["grid"]).startswith(("vq", "trellis")) and not padded and min(bpw for bpw, _ in line) <= row.bpw:
                slope, base = np.polyfit(np.array([bpw for bpw, _ in near]), np.array([kl for _, kl in near]), 1)
                expected = np.exp(base + slope * row.bpw)
                found.setdefault(str(row.extra["scheme"]), []).append((row.bpw, float(row.extra["kl_mean"]) / float(expected)))
    table = {name: {"bpw": float(np.mean([bpw for bpw, _ in of])), "ratio": _mean_ratio([r for _, r in of])} for name, of in found.items()}
    print("\nKL over that of k-means codes of the same bits, imp+gptq")
    for name, figures in sorted(table.items(), key=lambda item: item[1]["bpw"]):
        print(f"  {name:<24} {figures['bpw']:.3f} bpw {figures['ratio']:6.2f}")
    return table


def _mean_ratio(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def _divergences(
    rows: Sequence[Row], method: str, *, grids: Sequence[str], group_size: int = 64, bits: int | None = None, zero_points: bool = False
) -> dict[Key, float]:
    """KL by (model, bits, data type)."""
    return {
        (row.model, row.bits, str(row.extra["grid"])): float(row.extra["kl_mean"])
        for row in rows
        if _is(row, method, grids, group_size, bits) and (":asym" in str(row.extra.get("scheme"))) == zero_points
    }


def _is(row: Row, method: str, grids: Sequence[str], group_size: int, bits: int | None) -> bool:
    return row.method == method and row.extra.get("grid") in grids and row.group_size == group_size and bits in (None, row.bits)


def _mean_bpw(rows: Sequence[Row], method: str, grids: Sequence[str], bits: int, group_size: int) -> float:
    return float(np.mean([row.bpw for row in rows if _is(row, method, grids, group_size, bits)]))


def _by_bits(base: dict[Key, float], found: dict[Key, float]) -> dict[str, float]:
    """Ratio for each k, whatever the data types."""
    plain = {key[:2]: kl for key, kl in base.items()}
    ratios = {
        f"{bits:g}": _ratio(plain, {key[:2]: kl for key, kl in found.items() if key[1] == bits})
        for bits in sorted({key[1] for key in found})
    }
    return {bits: ratio for bits, ratio in ratios.items() if ratio is not None}


def _line(ratios: dict[str, float]) -> str:
    return "  ".join(f"{bits}: {ratio:6.2f}" for bits, ratio in ratios.items())


def _ratio(base: dict[Key, float], found: dict[Key, float]) -> float | None:
    """Geometric mean of found / base over the keys that both have."""
    both = [float(np.log(kl / base[key])) for key, kl in found.items() if kl > 0 and base.get(key, 0.0) > 0]
    return _mean_ratio(np.exp(both).tolist()) if both else None


if __name__ == "__main__":
    main()
