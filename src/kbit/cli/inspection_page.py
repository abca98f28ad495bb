"""The page of `kbit show --html`: one file that needs nothing else, readable on a phone and in the dark; no script, no resource."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from kbit.charts.svg import STYLE
from kbit.cli.inspection import Histogram, Inspected, layer_of
from kbit.cli.pictures import heat_map, level_histogram, stacked_bars
from kbit.core.sizes import bytes_text

__all__ = ["Page", "pictures", "render_page"]

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
    style = files("kbit.charts").joinpath("page.css").read_text(encoding="utf-8")
    title = f"Inside {page.facts['path']}"
    note = "" if page.against else "<p class=note>Errors need the original: <code>--against MODEL</code>.</p>"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>kbit: {escape(title)}</title>",
            f"<style>{STYLE}\n{style}</style>\n</head>\n<body>\n<main>",
            f"<header><p class=eyebrow>kbit show</p><h1>{escape(title)}</h1></header>",
            _answer(page),
            _section("Where the bits went", _bits(page)),
            _section("What was lost, and outliers", _losses(page), note),
            _section("Weights and levels", _levels(page)),
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


def _section(title: str, drawn: Mapping[str, str], note: str = "") -> str:
    figures = "".join(f"<figure>{picture}</figure>" for picture in drawn.values())
    return f'<section><h2>{title}</h2><div class="charts">{figures}</div>{note}</section>'


def pictures(page: Page) -> dict[str, str]:
    """Title → picture, in the order of the page."""
    return _bits(page) | _losses(page) | _levels(page)


def _levels(page: Page) -> dict[str, str]:
    return {one.name: level_histogram(one) for one in page.histograms}


def _bits(page: Page) -> dict[str, str]:
    sums: dict[str, Counter[str]] = {}
    weights: Counter[str] = Counter()
    for tensor in page.tensors:
        place = layer_of(tensor.name)
        row = tensor.kind if place is None else place[1]
        sums.setdefault(row, Counter()).update(tensor.bits)
        weights[row] += tensor.weights
    bars = {row: {part.replace("_", " "): size / weights[row] for part, size in parts.items()} for row, parts in sums.items()}
    title = "bits per weight, by part"
    layers = _map(page, "bits per weight, by layer", lambda tensor: tensor.bpw, "{:.2f}".format)
    return {title: stacked_bars(title, bars, "bits a weight")} | layers


def _losses(page: Page) -> dict[str, str]:
    return {
        **_map(page, "relative error, by layer", lambda tensor: tensor.error or None, "{:.1%}".format, logarithmic=True),
        **_map(page, "KL of the model with it alone", lambda tensor: tensor.kl or None, "{:.1e}".format, logarithmic=True),
        **_map(page, "largest weight, in σ", lambda tensor: tensor.largest, "{:.1f}".format),
        **_map(page, "kurtosis (Gaussian: 3)", lambda tensor: tensor.kurtosis, "{:.2f}".format),
    }


def _map(
    page: Page, title: str, value: Callable[[Inspected], float | None], shown: Callable[[float], str], *, logarithmic: bool = False
) -> dict[str, str]:
    cells = _cells(page, value)
    return {title: heat_map(title, cells, shown, logarithmic=logarithmic)} if cells else {}


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
