"""The ablation of the table of quality per bit: each method, type of codes and part alone, and together. Schemes, and tables for a page.

Rows are measured by `benchmarks/quality_table.py --only ablation uniform`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kbit.core.scheme import Scheme
from quality_text import change, frontier_kl, kl, markdown

__all__ = ["ABLATION", "BOTH", "tables"]

Row = dict[str, Any]

BOTH = "+imp+gptq"
ALONE = ("", ":mse", "+hqq", "+awq", "+imp", "+rotate", "+gptq")
TOGETHER = (
    "+hqq+gptq",
    "+rotate+imp",
    "+awq+imp",
    "+rotate+gptq",
    "+awq+gptq",
    BOTH,
    "+imp+actorder+gptq",
    f"+rotate{BOTH}",
    f"+awq{BOTH}",
)
#: what the methods go with; the first column is the main one
METHODS_ON = ("int3:g64", "int2:g64")
TYPES = (
    "int2:g64", "nf2:g64", "kmeans2:g64", "vq2d3:g96", "trellis2:g128",
    "int3:g64", "nf3:g64", "kmeans3:g64", "nested3:g64", "vq3d2:g64", "trellis3:g128",
    "int4:g64", "nf4:g64", "kmeans4:g64", "trellis4:g128",
)  # fmt: skip
#: types that are measured with rotated inputs as well; with the two of `METHODS_ON`
ROTATED = ("nf3:g64", "kmeans2:g64", "kmeans3:g64", "vq2d3:g96", "vq3d2:g64", "trellis2:g128", "trellis3:g128")
PARTS = (
    "int3:g64+outlier1", "int3:g64+lowrank2", "int3:g64+lowrank8", "int2:g64+residual1",
    "int4:g64+prune50", "int4:g64+prune2:4", "int4:g64+truncate0.05",
    f"int3:g64{BOTH}+outlier0.5", f"int3:g64{BOTH}+outlier1", f"int3:g64{BOTH}+outliercol1",
    f"int3:g64{BOTH}+lowrank2", f"int3:g64{BOTH}+lowrank8", f"int3:g64{BOTH}+outlier0.5+lowrank2",
    f"int3:g64+rotate{BOTH}+outlier0.5", f"int2:g64{BOTH}+outlier1", f"int2:g64{BOTH}+residual1", f"int2:g64{BOTH}+successive1",
    f"int4:g64{BOTH}+prune50", f"int4:g64{BOTH}+prune2:4", f"int4:g64{BOTH}+truncate0.05", f"trellis2:g128{BOTH}+lowrank2",
)  # fmt: skip
#: plain codes that spend the bits of parts on other groups and widths
LINES = tuple(f"{scheme}{methods}" for methods in ("", BOTH) for scheme in ("int2:g32", "int3:g128", "int3:g32"))
ABLATION = tuple(
    dict.fromkeys(
        (
            *(f"{scheme}{methods}" for scheme in METHODS_ON for methods in (*ALONE, *TOGETHER)),
            *(f"{scheme}{methods}" for scheme in TYPES for methods in ("", BOTH)),
            *(f"{scheme}+rotate{BOTH}" for scheme in ROTATED),
            *PARTS,
            *LINES,
        )
    )
)


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Markdown by the name of its marks. A scheme that is not measured has a dash."""
    known = {row["name"]: row for row in rows if row["tool"] == "kbit"}
    others = [row for row in rows if row["tool"] not in ("kbit", "kbit recipe")]
    return {"methods": _methods(known), "types": _types(known, others), "parts": _parts(known)}


def _methods(known: Mapping[str, Row]) -> str:
    lines = []
    for methods in (*ALONE, *TOGETHER):
        line = [f"`{methods}`" if methods else "nearest"]
        for scheme in METHODS_ON:
            found, plain = (known.get(f"{scheme}{text}", {}).get("kl_mean") for text in (methods, ""))
            line += [kl(found), "" if not methods else change(found / plain if found and plain else None)]
        lines.append(line)
    return markdown(["methods", *(cell for scheme in METHODS_ON for cell in (scheme, "to nearest"))], lines)


def _types(known: Mapping[str, Row], others: Sequence[Row]) -> str:
    lines = []
    for scheme in TYPES:
        found = [known.get(f"{scheme}{methods}") for methods in ("", BOTH, f"+rotate{BOTH}")]
        bits = next((row["bpw"] for row in found if row), None)
        figures = [kl(row and row["kl_mean"]) for row in found]
        lines.append(
            [f"`{scheme}`", "–" if bits is None else f"{bits:.3f}", *figures, kl(None if bits is None else frontier_kl(others, bits))]
        )
    return markdown(["type", "bpw", "nearest", f"`{BOTH}`", f"`+rotate{BOTH}`", "best other tool at these bits"], lines)


def _parts(known: Mapping[str, Row]) -> str:
    lines = []
    for text in PARTS:
        row = known.get(text)
        beside = row and frontier_kl(_plain(known, text), row["bpw"])
        figures = [f"{row['bpw']:.3f}", kl(row["kl_mean"])] if row else ["–", "–"]
        lines.append([f"`{text}`", *figures, kl(beside), change(row["kl_mean"] / beside if row and beside else None)])
    return markdown(["scheme", "bpw", "KL", "plain codes at these bits", ""], lines)


def _plain(known: Mapping[str, Row], text: str) -> list[Row]:
    """Rows of the same grid without parts, by the same methods; rotation, which spends no bits, left out."""
    scheme = Scheme.parse(text)
    methods = [method for method in scheme.methods if method != "rotate"]
    end = "".join(f"+{method}" for method in methods)
    plain = {f"{scheme.grid}{bits}:g{group}{end}" for bits in (1, 2, 3, 4) for group in (32, 64, 128)}
    return [row for name, row in known.items() if name in plain]
