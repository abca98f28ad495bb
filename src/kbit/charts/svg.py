"""Line charts as SVG text, written by hand: no drawing library is needed, and the file is small.

Colours are CSS classes (`STYLE`), so that a chart follows the light or dark page it stands in; each series also has a marker
of its own shape, and each point a tooltip. The palette is Okabe and Ito's, which colour-blind readers can tell apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from kbit.charts.axes import widened

__all__ = ["COLOURS", "INK", "SOFT", "STYLE", "Panel", "Point", "Series", "standalone", "svg_panel"]

#: room for a character of a legend's name, and least room for a name
_CHARACTER, _SHORTEST_NAME = 6.8, 66.0
_NAMESPACE = "http://www.w3.org/2000/svg"
WIDTH, HEIGHT = 460, 350
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 48

#: colours of the series on white
COLOURS = ("#0072b2", "#d55e00", "#00845f", "#b0568c", "#a87400")
INK, SOFT = "#1b1f24", "#59636e"
_LIGHT = f"--ink:{INK};--soft:{SOFT};--grid:#e3e7eb;--paper:#ffffff;" + ";".join(f"--s{i}:{colour}" for i, colour in enumerate(COLOURS))
_DARK = "--ink:#e8ebee;--soft:#a3adb8;--grid:#343b43;--paper:#16191d;--s0:#56b4e9;--s1:#ff8c4a;--s2:#2fc79a;--s3:#e79bc6;--s4:#e9b949"

#: style sheet of the charts; a page that embeds them includes it once
STYLE = (
    f":root{{{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    ".chart{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:12.5px}"
    ".chart text{fill:var(--ink)}.chart .soft{fill:var(--soft)}.chart .title{font-weight:600;font-size:14px}"
    ".chart .grid{stroke:var(--grid);stroke-width:1}.chart .axis{stroke:var(--soft);stroke-width:1}"
    ".chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.chart .base{stroke:var(--soft);stroke-dasharray:5 4;fill:none}"
    ".chart .ring{fill:none;stroke:var(--ink);stroke-width:1.8}"
    ".chart .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}"
    + "".join(
        f".chart .s{i}.line{{stroke:var(--s{i})}}.chart .s{i}.mark{{fill:var(--s{i});stroke:var(--paper);stroke-width:.8}}"
        f".chart .s{i}.band{{fill:var(--s{i});opacity:.16}}"
        for i in range(5)
    )
)


@dataclass(frozen=True, slots=True)
class Point:
    """A measured point and what its tooltip says."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: in the legend.
        points: from left to right.
        style: marks joined by a line, marks alone, or a line alone.
        colour: number of its colour and mark, 0…4; None for its place among the series.
        band: (x, low, high) of an area behind it, from left to right.
    """

    name: str
    points: tuple[Point, ...]
    style: Literal["both", "marks", "line"] = "both"
    colour: int | None = None
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: y logarithmic, x linear or logarithmic.

    Attributes:
        title, x_label, y_label: words.
        series: the curves.
        marked: a point to ring and name.
        baseline: a dashed line at a y value, and its name.
        ceiling: largest y shown; how many points lie above is said.
        log_x: logarithmic x.
        legend: names of the series in the upper right corner; a page may have them beside the chart instead.
        y_ticks: values that the y axis names; empty for the usual ones.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marked: Point | None = None
    baseline: tuple[float, str] | None = None
    ceiling: float = math.inf
    log_x: bool = False
    legend: bool = True
    y_ticks: tuple[float, ...] = ()


def svg_panel(panel: Panel) -> str:
    """The chart as one ``<svg>`` element (needs `STYLE` in the page)."""
    description = f"{panel.title}: {panel.y_label} against {panel.x_label}"
    return (
        f'<svg class="chart" xmlns="{_NAMESPACE}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{_content(panel)}</svg>"
    )


def standalone(panels: Sequence[Panel]) -> str:
    """Panels side by side as a file of its own, with its style sheet and background."""
    groups = "".join(f'<g transform="translate({i * (WIDTH + 20)} 0)">{_content(panel)}</g>' for i, panel in enumerate(panels))
    width = len(panels) * (WIDTH + 20) - 20
    return (
        f'<svg class="chart" xmlns="{_NAMESPACE}" viewBox="-10 -6 {width + 20} {HEIGHT + 12}" '
        f'width="{width + 20}" height="{HEIGHT + 12}">'
        f'<style>{STYLE}</style><rect x="-10" y="-6" width="100%" height="100%" fill="var(--paper)"/>{groups}</svg>\n'
    )


def _content(panel: Panel) -> str:
    points = [point for series in panel.series for point in series.points if point.y > 0 and math.isfinite(point.y)]
    if not points:
        return f'<text x="{LEFT}" y="{HEIGHT / 2}">nothing to draw</text>'
    across: Scale = math.log10 if panel.log_x else float
    xs = [across(point.x) for point in points] if panel.log_x else widened([point.x for point in points])
    above = sum(point.y > panel.ceiling for point in points)
    ys = [math.log10(min(point.y, panel.ceiling)) for point in points] + ([math.log10(panel.baseline[0])] if panel.baseline else [])
    x, y = _scale(xs, LEFT, WIDTH - RIGHT, 0.04), _scale(ys, HEIGHT - BOTTOM, TOP, 0.09)
    at: Place = lambda point: (x(across(point.x)), y(math.log10(point.y)))  # noqa: E731
    parts = [
        f'<text class="title" x="{LEFT}" y="16">{escape(panel.title)}</text>',
        _y_axis(panel.y_ticks or _ticks(min(ys), max(ys)), y, panel.y_label),
        _log_x_axis(xs, x, panel.x_label) if panel.log_x else _x_axis(xs, x, panel.x_label),
    ]
    if panel.baseline:
        parts.append(_baseline(panel.baseline, y))
    # an <svg> inside clips: curves that rise above the ceiling leave through the top
    parts.append(f'<svg y="{TOP}" width="{WIDTH}" height="{HEIGHT - TOP}" viewBox="0 {TOP} {WIDTH} {HEIGHT - TOP}">')
    parts += [_band(series, _number(series, i), at) for i, series in enumerate(panel.series) if series.band]
    parts += [_curve(series, _number(series, i), at) for i, series in enumerate(panel.series)]
    parts.append("</svg>")
    if above:
        parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="16" text-anchor="end">above the top: {above}</text>')
    if panel.marked:
        parts.append(_ring(panel.marked, at))
    if panel.legend:
        parts.append(_legend(panel.series))
    return "".join(parts)


Place = Callable[[Point], tuple[float, float]]
Scale = Callable[[float], float]


def _scale(values: Sequence[float], start: float, end: float, margin: float) -> Scale:
    low, high = min(values), max(values)
    pad = margin * (high - low) or 0.5
    low, high = low - pad, high + pad
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _y_axis(ticks: Sequence[float], y: Scale, label: str) -> str:
    parts = []
    for tick in (tick for tick in ticks if tick > 0):
        at = y(math.log10(tick))
        if TOP <= at <= HEIGHT - BOTTOM:
            parts.append(
                f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="soft" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_small(tick)}</text>'
            )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(label)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Values between two log10 bounds: powers of ten, 1–2–5, or even steps, whichever gives a handful."""
    if high - low < 0.7:
        bottom, top = 10**low, 10**high
        step = _step(top - bottom, 6)
        return [index * step for index in range(math.floor(bottom / step), math.ceil(top / step) + 1)] if step else [bottom]
    steps = (1,) if high - low > 2.5 else (1, 2, 5)
    return [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]


def _step(span: float, most: int) -> float:
    """The smallest 1–2–5 step that divides `span` into at most so many; 0 for no span."""
    sizes = (size * 10.0**power for power in range(-9, 12) for size in (1, 2, 5))
    return next((size for size in sizes if span <= most * size), 0.0) if span > 0 else 0.0


def _x_axis(xs: Sequence[float], x: Scale, label: str) -> str:
    step = _step(max(xs) - min(xs), 8) or 1.0
    indices = range(math.ceil(min(xs) / step), math.floor(max(xs) / step) + 1)
    return _x_ticks([(x(index * step), f"{index * step:g}") for index in indices], label)


def _log_x_axis(xs: Sequence[float], x: Scale, label: str) -> str:
    """Ticks between two log10 bounds: powers of ten, 1–2–5, or every so many powers."""
    low, high = min(xs), max(xs)
    every = max(1, math.ceil((high - low) / 7))
    steps = (1, 2, 5) if high - low < 2 else (1,)
    values = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1, every) for step in steps]
    ticks = [(x(math.log10(value)), _short(value)) for value in values]
    return _x_ticks([(at, text) for at, text in ticks if LEFT <= at <= WIDTH - RIGHT], label)


def _small(value: float) -> str:
    """A number as short as it goes: 0.001, but 1e-4."""
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _short(value: float) -> str:
    """A number with k, M, G, T or P for powers of 1,000."""
    power = 0
    while value >= 999.5 and power < len("kMGTP"):
        value, power = value / 1000, power + 1
    return f"{value:g}{' kMGTP'[power].strip()}"


def _x_ticks(ticks: Sequence[tuple[float, str]], label: str) -> str:
    base = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
    for at, text in ticks:
        parts.append(
            f'<path class="axis" d="M{at:.1f} {base}v5"/><text class="soft" x="{at:.1f}" y="{base + 19}" text-anchor="middle">{text}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _baseline(baseline: tuple[float, str], y: Scale) -> str:
    """The dashed line, and its name on the left, below where falling curves begin."""
    at = y(math.log10(baseline[0]))
    text = f'<text class="soft" x="{LEFT + 6}" y="{at + 14:.1f}">{escape(baseline[1])}</text>'
    return f'<path class="base" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>{text}'


def _curve(series: Series, index: int, at: Place) -> str:
    places = [(*at(point), point.label) for point in series.points if point.y > 0 and math.isfinite(point.y)]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in places)
    marks = "".join(f"{_mark(index, px, py)}<title>{escape(label)}</title></path>" for px, py, label in places)
    joined = "" if series.style == "marks" else f'<polyline class="line s{index}" points="{line}"/>'
    return joined + ("" if series.style == "line" else marks)


def _band(series: Series, index: int, at: Place) -> str:
    """The area between the low and the high ends."""
    edges = [at(Point(x, low, "")) for x, low, _ in series.band] + [at(Point(x, high, "")) for x, _, high in reversed(series.band)]
    return f'<polygon class="band s{index}" points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in edges)}"/>'


def _number(series: Series, place: int) -> int:
    return (place if series.colour is None else series.colour) % len(COLOURS)


_SHAPES = (
    "m-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0",
    "m-4-4h8v8h-8z",
    "m0-5l4.8 8.6h-9.6z",
    "m0-5.4l5.4 5.4-5.4 5.4-5.4-5.4z",
    "m0 5l4.8-8.6h-9.6z",
)


def _mark(index: int, px: float, py: float) -> str:
    return f'<path class="mark s{index}" d="M{px:.1f} {py:.1f}{_SHAPES[index]}">'


def _ring(point: Point, at: Place) -> str:
    px, py = at(point)
    shift, anchor = (13, "start") if px < WIDTH * 0.7 else (-13, "end")
    place = f'x="{px + shift:.1f}" y="{py - 11:.1f}" text-anchor="{anchor}"'
    text = f'<text class="halo" {place} font-weight="600">{escape(point.label)}</text>'
    return f'<circle class="ring" cx="{px:.1f}" cy="{py:.1f}" r="8.5"/>{text}'


def _legend(series: Sequence[Series]) -> str:
    """Names in the upper right corner, where a falling curve leaves room; the longest ends at the right edge at the latest."""
    parts = []
    start = WIDTH - RIGHT - max(_SHORTEST_NAME, *(_CHARACTER * len(one.name) for one in series))
    for i, one in enumerate(series):
        py = TOP + 12 + 18 * i
        mark = f"{_mark(_number(one, i), start - 12, py - 4)}</path>"
        parts.append(f'{mark}<text x="{start:.1f}" y="{py}">{escape(one.name)}</text>')
    return "".join(parts)
