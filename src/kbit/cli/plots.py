"""What the demo draws: the panels from its rows, the SVG file, the chart for the terminal, and a PNG where matplotlib is installed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kbit.charts.svg import COLOURS, INK, SOFT, Panel, Point, Series, standalone
from kbit.cli.terminal import Line, braille_chart
from kbit.cli.tradeoff import NAMES, Recommendation, Row, original, series

__all__ = ["panels", "terminal_chart", "write_png", "write_svg"]

#: perplexities beyond this multiple of the original's are off the chart, which would else show little but them
CEILING = 1.25
_LETTERS = {"int": "i", "float": "f", "nf": "n", "log": "l", "kmeans": "k"}
_BPW, _KL = "stored bits per weight", "KL divergence, nats a token"
_FILE, _PERPLEXITY = "file size, MB", "perplexity"


def panels(rows: Sequence[Row], chosen: Recommendation) -> tuple[Panel, Panel]:
    """Loss against bits, and perplexity against file size; one curve a data type, the recommended row ringed."""
    best, whole = chosen.row, original(rows)
    by_bits = tuple(
        Series(NAMES[grid], tuple(Point(row.bpw, row.kl_mean, _tooltip(row)) for row in found)) for grid, found in series(rows).items()
    )
    by_size = tuple(
        Series(NAMES[grid], tuple(Point(row.file_bytes / 1e6, row.perplexity, _tooltip(row)) for row in found))
        for grid, found in series(rows).items()
    )
    label = f"k = {best.k}"
    return (
        Panel("Loss against bits", _BPW, _KL, by_bits, Point(best.bpw, best.kl_mean, label)),
        Panel(
            "Perplexity against size",
            _FILE,
            _PERPLEXITY,
            by_size,
            Point(best.file_bytes / 1e6, best.perplexity, label),
            (whole.perplexity, f"16 bits, {whole.file_bytes / 1e6:.1f} MB"),
            CEILING * whole.perplexity,
        ),
    )


def _tooltip(row: Row) -> str:
    return f"{row.scheme}: {row.bpw:.2f} bpw, {row.file_bytes / 1e6:.2f} MB, perplexity {row.perplexity:.2f}, KL {row.kl_mean:.4f}"


def write_svg(path: Path, drawn: Sequence[Panel]) -> None:
    """The panels side by side as one SVG file."""
    path.write_text(standalone(drawn), encoding="utf-8")


def terminal_chart(rows: Sequence[Row], chosen: Recommendation, *, ascii_only: bool = False) -> str:
    """Loss against bits, 78 columns."""
    lines = [Line(_LETTERS[grid], NAMES[grid], tuple((row.bpw, row.kl_mean) for row in found)) for grid, found in series(rows).items()]
    best = chosen.row
    return braille_chart(lines, x_label=_BPW, y_label=_KL, marked=(best.bpw, best.kl_mean), ascii_only=ascii_only)


def write_png(path: Path, drawn: Sequence[Panel]) -> bool:
    """The panels as PNG; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(drawn):
        _draw(figure.add_subplot(1, len(drawn), index + 1), panel)
    figure.savefig(path, dpi=130)
    return True


def _draw(axes: Any, panel: Panel) -> None:
    """One panel on matplotlib's axes."""
    for curve, marker, colour in zip(panel.series, "os^Dv", COLOURS, strict=False):
        xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
        axes.semilogy(xs, ys, marker=marker, color=colour, markersize=4.5, linewidth=1.4, label=curve.name)
    if panel.baseline:
        axes.axhline(panel.baseline[0], color=SOFT, linestyle="--", linewidth=1, label=panel.baseline[1])
    if panel.marked:
        ring = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK, "label": f"recommended, {panel.marked.label}"}
        axes.plot([panel.marked.x], [panel.marked.y], "o", **ring)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if math.isfinite(panel.ceiling):
        axes.set_ylim(top=panel.ceiling)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
