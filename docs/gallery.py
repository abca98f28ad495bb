"""Draws the levels of every grid (`images/grids.svg`) and computes the error table of `grids.md`.

    python docs/gallery.py            writes both
    python docs/gallery.py --check    exits 1 if either is stale

The picture is SVG text written by hand: it needs no drawing library and is the same on every machine.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kbit.core.data_types import GRIDS
from kbit.core.scheme import Scheme
from kbit.grids import is_data_dependent, levels_for

__all__ = ["PAGE", "PICTURE", "error_table", "page", "picture", "relative_rms_error"]

PAGE = Path(__file__).with_name("grids.md")
PICTURE = Path(__file__).with_name("images") / "grids.svg"
BEGIN, END = "<!-- error table: written by docs/gallery.py -->", "<!-- end of error table -->"

#: panel title → what follows "<grid><bits>" in the scheme's text
PANELS = {
    "int, symmetric": ("int", ""),
    "int, asymmetric": ("int", ":asym"),
    "float, split of kbit's choice": ("float", ""),
    "float, 3 exponent bits": ("float", "e3"),
    "log, powers of two": ("log", ""),
    "log, two levels per octave": ("log", "r2"),
    "nf": ("nf", ""),
    "dynamic": ("dynamic", ""),
    "quantile, fitted to Gaussian blocks of 64": ("quantile", ""),
    "kmeans, fitted to Gaussian blocks of 64": ("kmeans", ""),
}
#: row of the error table → the same
ROWS = {
    "`int`": ("int", ""),
    "`int…:asym`": ("int", ":asym"),
    **{f"`float…e{bits}`": ("float", f"e{bits}") for bits in range(1, 6)},
    "`log`": ("log", ""),
    "`log…r2`": ("log", "r2"),
    "`log…r4`": ("log", "r4"),
    "`nf`": ("nf", ""),
    "`dynamic`": ("dynamic", ""),
    "`quantile`": ("quantile", ""),
    "`kmeans`": ("kmeans", ""),
}

Blocks = npt.NDArray[np.float32]


def scheme_of(grid: str, detail: str, bits: int) -> Scheme | None:
    """The scheme of a panel or row at `bits`, None where it is not defined."""
    needed = int(detail[1:]) + 1 if grid == "float" and detail else 1
    return Scheme.parse(f"{grid}{bits}{detail}") if bits in GRIDS[grid] and bits >= needed else None


def gaussian_blocks(seed: int, count: int = 2000) -> Blocks:
    """Blocks of 64 independent standard normal weights, float32 [count, 64]."""
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def signed_peak(blocks: Blocks) -> Blocks:
    """The element of largest magnitude of each block, [count, 1]."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)


def fitted_levels(scheme: Scheme) -> npt.NDArray[np.float32]:
    """Levels; those of fitted grids come from Gaussian blocks."""
    if not is_data_dependent(scheme):
        return levels_for(scheme)
    blocks = gaussian_blocks(seed=1)
    return levels_for(scheme, blocks / signed_peak(blocks))


def relative_rms_error(scheme: Scheme, blocks: Blocks) -> float:
    """Root of the mean squared error over the mean square of the weights: absmax blocks, nearest levels, scales not rounded."""
    levels = fitted_levels(scheme)
    if scheme.symmetric:
        scale = signed_peak(blocks) / (levels[-1] if levels[-1] >= -levels[0] else levels[0])
        zero_point = np.zeros_like(scale)
    else:
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        scale = (high - low) / levels[-1]
        zero_point = np.rint(-low / scale)
    codes = np.searchsorted((levels[:-1] + levels[1:]) / 2, blocks / scale + zero_point)
    error = (levels[codes] - zero_point) * scale - blocks
    return float(np.sqrt(np.square(error, dtype=np.float64).mean() / np.square(blocks, dtype=np.float64).mean()))


def error_table() -> str:
    """Markdown table, a row a grid and a column a k; the least error of each column is bold."""
    blocks = gaussian_blocks(seed=0)
    table = {
        name: [relative_rms_error(scheme, blocks) if (scheme := scheme_of(*recipe, bits)) else np.inf for bits in range(2, 9)]
        for name, recipe in ROWS.items()
    }
    least = np.min(list(table.values()), axis=0)
    lines = ["| k | " + " | ".join(map(str, range(2, 9))) + " |", "|---" * 8 + "|"]
    for name, errors in table.items():
        cells = ["–" if np.isinf(error) else f"**{error:.4f}**" if error == least[i] else f"{error:.4f}" for i, error in enumerate(errors)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The guide with its table computed anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{error_table()}\n{END}{rest.split(END)[1]}"


WIDTH, LEFT, PANEL_WIDTH, GAP = 1000, 56, 392, 104
TOP, PANEL_HEIGHT, ROW_HEIGHT, TICK = 64, 226, 20, 14
CAPTION = "One tick a level, divided by the grid’s largest magnitude. Blue: fixed by the scheme. Orange: fitted to data."
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#59636e}.t{font-weight:600;font-size:14px;fill:#1b1f24}"
    ".h{font-weight:600;font-size:18px;fill:#1b1f24}.e{text-anchor:end}.m{text-anchor:middle}.s{font-size:10px}"
    "path{fill:none}.f{stroke:#0072b2}.d{stroke:#d55e00}.g{stroke:#e3e7eb}"
)


def picture() -> str:
    """The gallery as SVG text."""
    height = TOP + PANEL_HEIGHT * ((len(PANELS) + 1) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<title>Levels of every grid at 1 to 8 bits</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="h" x="{LEFT}" y="28">Where the levels lie: every grid at k = 1…8 bits</text>',
        f'<text x="{LEFT}" y="46">{CAPTION}</text>',
    ]
    for index, (title, recipe) in enumerate(PANELS.items()):
        x, y = LEFT + index % 2 * (PANEL_WIDTH + GAP), TOP + index // 2 * PANEL_HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_panel(title, *recipe)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, grid: str, detail: str) -> str:
    bottom = 26 + 8 * ROW_HEIGHT
    low = 0.0 if detail == ":asym" else -1.0
    guides = [(value, _place(value, low)) for value in ((0, 0.5, 1) if low == 0 else (-1, -0.5, 0, 0.5, 1))]
    parts = [f'<text class="t" y="14">{title}</text>']
    parts += [f'<path class="g" d="M{x:g} 24V{bottom}"/>' for _, x in guides]
    parts += [f'<text class="m" x="{x:g}" y="{bottom + 15}">{f"{value:g}".replace("-", "−")}</text>' for value, x in guides]
    for bits in range(1, 9):
        y = 26 + (bits - 1) * ROW_HEIGHT
        parts.append(f'<text class="e" x="-12" y="{y + 12}">{"k = " if bits == 1 else ""}{bits}</text>')
        scheme = scheme_of(grid, detail, bits)
        if scheme is None:
            parts.append(f'<text class="m s" x="{PANEL_WIDTH / 2:g}" y="{y + 11}">not defined</text>')
            continue
        parts.append(_ticks(scheme, low, y))
        if scheme.exponent_bits is not None:
            label = f"E{scheme.exponent_bits}M{bits - 1 - scheme.exponent_bits}"
            parts.append(f'<text class="s" x="{PANEL_WIDTH + 10}" y="{y + 11}">{label}</text>')
    return "".join(parts)


def _ticks(scheme: Scheme, low: float, y: int) -> str:
    levels = fitted_levels(scheme)
    places = [_place(float(level), low) for level in levels / np.abs(levels).max()]
    marks = "".join(f"M{x:.2f} {y}v{TICK}" for x in places)
    kind = "d" if is_data_dependent(scheme) else "f"
    return f'<path class="{kind}" stroke-width="{2.2 - 0.2 * scheme.bits:.1f}" d="{marks}"/>'


def _place(level: float, low: float) -> float:
    return (level - low) / (1 - low) * PANEL_WIDTH


def main() -> int:
    """Write the picture and the table, or check that they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the picture or the table is stale")
    check = parser.parse_args().check
    wanted = {PICTURE: picture(), PAGE: page(PAGE.read_text(encoding="utf-8"))}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.name} is stale: run python docs/gallery.py", file=sys.stderr)
        else:
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
