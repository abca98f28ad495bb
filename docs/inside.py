"""Draws `images/inside.svg`: bits, sensitivity, errors and levels of a packed model, the pictures of `kbit show --html`.

python docs/inside.py PACKED ORIGINAL
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from kbit.charts.svg import STYLE
from kbit.cli.inspection import histogram, inspect
from kbit.cli.inspection_page import Page, pictures
from kbit.cli.originals import Original
from kbit.cli.pictures import WIDTH
from kbit.store.folder import open_model

PICTURE = Path(__file__).with_name("images") / "inside.svg"
GAP = 24


def main() -> int:
    """Read both folders and write the picture."""
    packed, original = sys.argv[1:]
    with open_model(packed) as stored:
        source = Original(original)
        tensors = list(inspect(stored, source))
        worst = max(tensors, key=lambda tensor: tensor.error or 0.0)
        drawn = histogram(stored, worst.name, source)
    found = pictures(Page({}, tensors, [] if drawn is None else [drawn], original))
    wanted = ("bits per weight, by layer", "KL of the model with it alone", "relative error, by layer", worst.name)
    PICTURE.write_text(grid([next(svg for title, svg in found.items() if title.startswith(want)) for want in wanted]), encoding="utf-8")
    return 0


def grid(svgs: Sequence[str]) -> str:
    """Two pictures a row, as one file with its style sheet."""
    parts, y = [], 0.0
    for first in range(0, len(svgs), 2):
        heights = []
        for column, svg in enumerate(svgs[first : first + 2]):
            height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', svg)[1])  # type: ignore[index]
            heights.append(height)
            parts.append(svg.replace("<svg ", f'<svg x="{column * (WIDTH + GAP)}" y="{y}" width="{WIDTH}" height="{height}" ', 1))
        y += max(heights) + GAP
    width = 2 * WIDTH + GAP
    size = f'viewBox="-12 -12 {width + 24} {y:.0f}" width="{width + 24}" height="{y:.0f}"'
    head = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" {size}>'
    return f'{head}<style>{STYLE}</style><rect x="-12" y="-12" width="100%" height="100%" fill="var(--paper)"/>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    raise SystemExit(main())
