"""The page of `kbit show --html`: one file that needs nothing else, readable on a phone and in the dark; no script, no resource."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from kbit.cli.inspection import Histogram, Inspected, layer_of
from kbit.cli.pictures import heat_map, level_histogram, stacked_bars
from kbit.cli.svg import STYLE
from kbit.core.sizes import bytes_text

__all__ = ["Page", "render_page"]

_WORST = 20


@dataclass(frozen=True, slots=True)
class Page:
    """All that it shows.

    Attributes:
        facts: what `kbit show` says of the whole model.
        tensors: every encoded weight.
        histograms: of the chosen weight, or the worst.
        against: the original's name, or None.
    """

    facts: Mapping[str, Any]
    tensors: Sequence[Inspected]
    histograms: Sequence[Histogram]
    against: str | None


def render_page(page: Page) -> str:
    """HTML text."""
    style = files("kbit.cli").joinpath("report.css").read_text(encoding="utf-8")
    title = f"Inside {page.facts['path']}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>kbit: {escape(title)}</title>",
            f"<style>{STYLE}\n{style}</style>\n</head>\n<body>\n<main>",
            f"<header><p class=eyebrow>kbit show</p><h1>{escape(title)}</h1></header>",
            _answer(page),
            "<section><h2>Where the bits went</h2>" + _charts(_bits(page)) + "</section>",
            _losses(page),
            "<section><h2>Weights and levels</h2>" + _charts([level_histogram(one) for one in page.histograms]) + "</section>",
            _table(page),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _answer(page: Page) -> str:
    weights = sum(tensor.weights for tensor in page.tensors)
    bpw = sum(tensor.bpw * tensor.weights for tensor in page.tensors) / weights
    cards = [
        ("file", bytes_text(page.facts["file_bytes"]), f"{page.facts['weights']:,} weights"),
        ("bits per weight", f"{bpw:.3f}", f"of {weights:,} encoded weights"),
        ("schemes", str(len({tensor.scheme for tensor in page.tensors})), f"on {len(page.tensors)} encoded tensors"),
    ]
    known = [tensor for tensor in page.tensors if tensor.error is not None]
    if known:
        worst = max(known, key=lambda tensor: tensor.error or 0.0)
        cards.append(("largest error", f"{worst.error:.1%}", escape(worst.name)))
    kl = [tensor.kl for tensor in page.tensors if tensor.kl is not None]
    if kl:
        cards.append(("predicted KL", f"{sum(kl):.3g}", "nats a token, by sensitivity"))
    items = "".join(
        f'<div><dt>{name}</dt><dd>{value}<small style="overflow-wrap:anywhere">{note}</small></dd></div>' for name, value, note in cards
    )
    return f"<section class=answer><dl class=cards>{items}</dl></section>"


def _charts(pictures: Sequence[str]) -> str:
    return '<div class="charts">' + "".join(f"<figure>{picture}</figure>" for picture in pictures) + "</div>"


def _bits(page: Page) -> list[str]:
    sums: dict[str, Counter[str]] = {}
    weights: Counter[str] = Counter()
    for tensor in page.tensors:
        place = layer_of(tensor.name)
        row = tensor.kind if place is None else place[1]
        sums.setdefault(row, Counter()).update(tensor.bits)
        weights[row] += tensor.weights
    bars = {row: {part.replace("_", " "): size / weights[row] for part, size in parts.items()} for row, parts in sums.items()}
    found = [stacked_bars("bits per weight, by part", bars, "bits a weight")]
    if cells := _cells(page, lambda tensor: tensor.bpw):
        found.append(heat_map("bits per weight, by layer", cells, lambda value: f"{value:.2f}"))
    return found


def _losses(page: Page) -> str:
    pictures = []
    if cells := _cells(page, lambda tensor: tensor.error or None):
        pictures.append(heat_map("relative error, by layer", cells, lambda value: f"{value:.1%}", logarithmic=True))
    if cells := _cells(page, lambda tensor: tensor.kl or None):
        pictures.append(heat_map("KL of the model with it alone", cells, lambda value: f"{value:.1e}", logarithmic=True))
    if cells := _cells(page, lambda tensor: tensor.largest):
        pictures.append(heat_map("largest weight, in σ", cells, lambda value: f"{value:.1f}"))
    if cells := _cells(page, lambda tensor: tensor.kurtosis):
        pictures.append(heat_map("kurtosis (Gaussian: 3)", cells, lambda value: f"{value:.2f}"))
    note = "" if page.against else "<p class=note>Errors need the original: <code>--against MODEL</code>.</p>"
    return f"<section><h2>What was lost, and outliers</h2>{_charts(pictures)}{note}</section>" if pictures else note


def _cells(page: Page, value: Callable[[Inspected], float | None]) -> dict[tuple[str, int], float]:
    cells = {}
    for tensor in page.tensors:
        place, found = layer_of(tensor.name), value(tensor)
        if place is not None and found is not None:
            cells[place[1], place[0]] = found
    return cells


def _table(page: Page) -> str:
    key: Callable[[Inspected], float] = lambda tensor: -(tensor.kl or 0.0) if tensor.kl is not None else -(tensor.error or tensor.kurtosis)  # noqa: E731
    worst = sorted(page.tensors, key=key)[:_WORST]
    head = "<tr><th>tensor<th>scheme<th>bpw<th>error<th>SQNR, dB<th>kurtosis<th>largest, σ<th>KL, nats</tr>"
    rows = "".join(_row(tensor) for tensor in worst)
    by = "sensitivity" if any(tensor.kl is not None for tensor in worst) else "error" if page.against else "kurtosis"
    return (
        f"<section><h2>Worst tensors</h2><div class=scroll tabindex=0><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
        f"<p class=note>The first {len(worst)} of {len(page.tensors)} by {by}.</p></section>"
    )


def _row(tensor: Inspected) -> str:
    figures = (
        f"{tensor.bpw:.3f}",
        _text(tensor.error, ".2%"),
        _text(tensor.sqnr_db, ".1f"),
        f"{tensor.kurtosis:.2f}",
        f"{tensor.largest:.1f}",
        _text(tensor.kl, ".2e"),
    )
    name = f"<tr><th scope=row><code>{escape(tensor.name)}</code><td>{escape(tensor.scheme)}"
    return name + "".join(f"<td>{figure}" for figure in figures) + "</tr>"


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
