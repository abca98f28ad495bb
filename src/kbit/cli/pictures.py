"""Heat maps, stacked bars and histograms as SVG text, in the manner and with the style sheet of `kbit.charts.svg`."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from kbit.cli.inspection import Histogram

__all__ = ["Cells", "heat_map", "level_histogram", "stacked_bars"]

WIDTH = 460
_LEFT, _RIGHT, _TOP = 92, 12, 50
_NAMESPACE = "http://www.w3.org/2000/svg"
#: (row, column) → value
Cells = Mapping[tuple[str, int], float]


def heat_map(title: str, cells: Cells, shown: Callable[[float], str], *, logarithmic: bool = False) -> str:
    """Values by row and column, darker where larger; numbers inside where there is room.

    Args:
        title: words above.
        cells: values, all finite; with `logarithmic` above 0.
        shown: a value as text.
        logarithmic: shades go by the logarithm.
    """
    rows, columns = list(dict.fromkeys(row for row, _ in cells)), sorted({column for _, column in cells})
    shade = _shades(list(cells.values()), logarithmic)
    width, height = (WIDTH - _LEFT - _RIGHT) / len(columns), 26
    parts = [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    step = math.ceil(len(columns) / 12)
    for index, column in enumerate(columns):
        if index % step == 0:
            parts.append(f'<text class="soft" x="{_LEFT + (index + 0.5) * width:.1f}" y="{_TOP - 8}" text-anchor="middle">{column}</text>')
    for number, row in enumerate(rows):
        y = _TOP + number * height
        parts.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 17}" text-anchor="end">{escape(row)}</text>')
        for index, column in enumerate(columns):
            if (row, column) not in cells:
                continue
            value, x = cells[row, column], _LEFT + index * width
            box = f'x="{x + 1:.1f}" y="{y + 1}" width="{width - 2:.1f}" height="{height - 2}" rx="2"'
            tip = f"<title>{escape(row)}, layer {column}: {escape(shown(value))}</title>"
            parts.append(f'<rect {box} fill="var(--s0)" fill-opacity="{shade(value):.3f}">{tip}</rect>')
            if width >= 42:
                style = ' style="fill:var(--paper)"' if shade(value) > 0.6 else ""
                place = f'x="{x + width / 2:.1f}" y="{y + 17}" text-anchor="middle" font-size="11.5"'
                parts.append(f"<text {place}{style}>{escape(shown(value))}</text>")
    return _svg(title, _TOP + len(rows) * height + 6, parts)


def _shades(values: Sequence[float], logarithmic: bool) -> Callable[[float], float]:
    place = math.log if logarithmic else float
    low, high = place(min(values)), place(max(values))
    return lambda value: 0.12 + 0.83 * ((place(value) - low) / (high - low) if high > low else 0.5)


def stacked_bars(title: str, bars: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """One bar a row, cut into parts; parts have one colour in all rows, and are named below."""
    parts_seen = list(dict.fromkeys(part for bar in bars.values() for part, size in bar.items() if size > 0))
    longest = max(sum(bar.values()) for bar in bars.values()) or 1.0
    scale = (WIDTH - _LEFT - _RIGHT - 46) / longest
    found = [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    for number, (row, bar) in enumerate(bars.items()):
        y, x = 32 + 28 * number, float(_LEFT)
        found.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(row)}</text>')
        for part in parts_seen:
            size = bar.get(part, 0.0)
            if size > 0:
                tip = f"<title>{escape(row)}, {escape(part)}: {size:.3f} {unit}</title>"
                found.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{size * scale:.1f}" height="21" fill="{_colour(part, parts_seen)}">{tip}</rect>'
                )
                x += size * scale
        found.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{sum(bar.values()):.2f}</text>')
    y = 32 + 28 * len(bars) + 16
    at = 0.0
    for part in parts_seen:
        found.append(f'<rect x="{at:.0f}" y="{y - 9}" width="10" height="10" fill="{_colour(part, parts_seen)}"/>')
        found.append(f'<text class="soft" x="{at + 14:.0f}" y="{y}">{escape(part)}</text>')
        at += 24 + 7.2 * len(part)
    return _svg(title, y + 10, found)


def _colour(part: str, parts: Sequence[str]) -> str:
    return f"var(--s{parts.index(part) % 5})"


def level_histogram(drawn: Histogram) -> str:
    """Weights over their levels: bars of counts, a line for each level."""
    title = f"{drawn.name}: {drawn.scheme}"
    base, top, left = 232, 44, 8
    low, high = float(drawn.edges[0]), float(drawn.edges[-1])

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - 2 * left)

    most = int(drawn.counts.max()) or 1
    found = [f'<text class="title" x="0" y="16" {_fitted(title)}>{escape(title)}</text>']
    what = "decoded weights" if drawn.decoded else "original weights"
    found.append(f'<text class="soft" x="0" y="33">{what} over their scales, outer bars all beyond; lines: levels</text>')
    for level in drawn.levels:
        at = x(float(level))
        found.append(
            f'<path d="M{at:.1f} {top}V{base}" stroke="var(--s1)" stroke-width="1" fill="none"><title>{float(level):g}</title></path>'
        )
    for begin, end, count in zip(drawn.edges[:-1], drawn.edges[1:], drawn.counts, strict=True):
        tall = (base - top) * int(count) / most
        width = x(float(end)) - x(float(begin)) - 0.4
        tip = f"<title>{float(begin):.3g} to {float(end):.3g}: {int(count):,}</title>"
        bar = f'x="{x(float(begin)):.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
        found.append(f'<rect {bar} fill="var(--s0)" fill-opacity=".72">{tip}</rect>')
    found.append(f'<path class="axis" d="M{left} {base}H{WIDTH - left}"/>')
    found += [
        f'<text class="soft" x="{x(value):.1f}" y="{base + 17}" text-anchor="middle">{value:.3g}</text>'
        for value in (float(drawn.levels[0]), 0.0, float(drawn.levels[-1]))
        if low <= value <= high
    ]
    return _svg(title, base + 26, found)


def _fitted(text: str) -> str:
    """Squeezes a text that would be wider than the picture."""
    return f'textLength="{WIDTH}" lengthAdjust="spacingAndGlyphs"' if len(text) * 7.4 > WIDTH else ""


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" xmlns="{_NAMESPACE}" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
