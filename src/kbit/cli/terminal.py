"""A chart in the terminal: lines of braille dots, a letter at each point, labelled axes; 80 columns by default.

A braille cell holds 2 × 4 dots, so a plot of 66 × 16 cells has 132 × 64 dots. Where two points fall into one cell the later
one moves to the next free cell on the right: the letters of close curves stand side by side instead of hiding each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kbit.charts.axes import widened

__all__ = ["Line", "braille_chart"]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_MARGIN = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its letter in the plot, its name in the legend, and its points (x, y > 0)."""

    letter: str
    name: str
    points: tuple[tuple[float, float], ...]


def braille_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    marked: tuple[float, float] | None = None,
    width: int = 78,
    height: int = 16,
    ascii_only: bool = False,
) -> str:
    """The chart as text; y is logarithmic. `marked` is a point to show as ``◆`` (``#`` in ASCII)."""
    drawable = [Line(line.letter, line.name, tuple((x, y) for x, y in line.points if y > 0 and math.isfinite(y))) for line in lines]
    xs = [x for line in drawable for x, _ in line.points]
    ys = [math.log10(y) for line in drawable for _, y in line.points]
    if not xs:
        return "(nothing to draw)"
    canvas = _Canvas(width - _MARGIN, height, _range(widened(xs)), _range(ys))
    if not ascii_only:
        for line in drawable:
            canvas.polyline(line.points)
    for line in drawable:
        for point in line.points:
            canvas.letter(point, line.letter)
    if marked is not None and marked[1] > 0:
        canvas.mark(marked, "#" if ascii_only else "◆")
    legend = "   ".join(f"{line.letter} {line.name}" for line in drawable)
    if marked is not None:
        legend += "   " + ("#" if ascii_only else "◆") + " recommended"
    return "\n".join([f"{y_label} (log)", *canvas.rows(ascii_only), x_label.center(width).rstrip(), "", "  " + legend])


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


class _Canvas:
    """Dots and letters on a grid of cells; x linear, y log10."""

    def __init__(self, width: int, height: int, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.width, self.height, self.x, self.y = width, height, x, y
        self.dots = [[0] * width for _ in range(height)]
        self.letters: dict[tuple[int, int], str] = {}

    def _dot(self, point: tuple[float, float]) -> tuple[float, float]:
        """Position in dots, from the top left."""
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0]) * (2 * self.width - 1)
        down = (self.y[1] - math.log10(point[1])) / (self.y[1] - self.y[0]) * (4 * self.height - 1)
        return across, down

    def _cell(self, point: tuple[float, float]) -> tuple[int, int]:
        across, down = self._dot(point)
        return round(down) // 4, round(across) // 2

    def polyline(self, points: Sequence[tuple[float, float]]) -> None:
        """Every second dot of the way, so that curves stay lighter than letters."""
        for start, end in pairwise(points):
            (x0, y0), (x1, y1) = self._dot(start), self._dot(end)
            steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
            for step in range(0, steps + 1, 2):
                across, down = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
                self.dots[down // 4][across // 2] |= _DOTS[down % 4][across % 2]

    def letter(self, point: tuple[float, float], letter: str) -> None:
        row, column = self._cell(point)
        while (row, column) in self.letters and column < self.width - 1:
            column += 1
        self.letters[row, column] = letter

    def mark(self, point: tuple[float, float], sign: str) -> None:
        row, column = self._cell(point)
        while (row, column) in self.letters and column > 0:
            column -= 1
        self.letters[row, column] = sign

    def rows(self, ascii_only: bool) -> list[str]:
        """Lines of the plot with the y ticks on the left and the x ticks below."""
        ticks = {
            round((self.y[1] - math.log10(value)) / (self.y[1] - self.y[0]) * (4 * self.height - 1)) // 4: value
            for value in _decades(*self.y)
        }
        upright, corner, across = ("|", "+", "-") if ascii_only else ("│", "└", "─")
        lines = []
        for row in range(self.height):
            label = f"{ticks[row]:g}" if row in ticks else ""
            cells = "".join(self.letters.get((row, column)) or self._braille(row, column) for column in range(self.width))
            lines.append(f"{label:>{_MARGIN - 2}} {upright}{cells}".rstrip())
        lines.append(" " * (_MARGIN - 1) + corner + across * (self.width - 1))
        lines.append(" " * _MARGIN + self._x_ticks())
        return lines

    def _braille(self, row: int, column: int) -> str:
        dots = self.dots[row][column]
        return chr(0x2800 + dots) if dots else " "

    def _x_ticks(self) -> str:
        text = [" "] * self.width
        for value in range(math.ceil(self.x[0]), math.floor(self.x[1]) + 1):
            column = self._cell((value, 10 ** self.y[0]))[1]
            for offset, character in enumerate(str(value)):
                if column + offset < self.width:
                    text[column + offset] = character
        return "".join(text).rstrip()


def _decades(low: float, high: float) -> list[float]:
    """1–2–5 ticks between two log10 values; decades alone where there are many."""
    steps = (1, 2, 5) if high - low < 3 else (1,)
    candidates = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [value for value in candidates if low <= math.log10(value) <= high]
