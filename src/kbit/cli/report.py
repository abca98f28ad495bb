"""The demo's report: one HTML file that needs nothing else, readable on a phone and in the dark.

No script, no link to a resource: a content security policy in the page itself forbids both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from kbit.charts.svg import STYLE, Panel, svg_panel
from kbit.cli.tradeoff import NAMES, Recommendation, Row, original, series

__all__ = ["Report", "render"]


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows.

    Attributes:
        model: name of the model.
        rows: what was measured, the original among them.
        chosen: the recommended row and its reason.
        panels: the charts.
        prompt, whole_text, best_text: the prompt and its continuations by the 16-bit and the recommended model.
        caption: what the table's reader must know (schemes of embedding and head, protocol).
        facts: name → value, versions and machine.
        command: the command that made the report.
    """

    model: str
    rows: tuple[Row, ...]
    chosen: Recommendation
    panels: tuple[Panel, ...]
    prompt: str
    whole_text: str
    best_text: str
    caption: str
    facts: Mapping[str, str]
    command: str


def render(report: Report) -> str:
    """The page as HTML text."""
    best, whole = report.chosen.row, original(report.rows)
    style = files("kbit.charts").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>kbit: {escape(report.model)} at every k</title>",
            f"<style>{STYLE}\n{style}</style>\n</head>\n<body>\n<main>",
            f"<header><p class=eyebrow>kbit demo</p><h1>Which k for {escape(report.model)}?</h1></header>",
            _answer(report.chosen, whole),
            '<section><h2>The trade-off</h2><div class="charts">'
            + "".join(f"<figure>{svg_panel(panel)}</figure>" for panel in report.panels)
            + "</div>",
            _how_to_read(best, whole),
            f"</section>\n<section><h2>Every row</h2>{_table(report)}<p class=note>{escape(report.caption)}</p></section>",
            _texts(report),
            _facts(report),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _answer(chosen: Recommendation, whole: Row) -> str:
    best = chosen.row
    figures = [
        ("file", f"{best.file_bytes / 1e6:.2f} MB", f"16 bits: {whole.file_bytes / 1e6:.2f} MB"),
        ("bits per weight", f"{best.bpw:.2f}", "all stored bits"),
        ("perplexity", f"{best.perplexity:.2f}", f"16 bits: {whole.perplexity:.2f}"),
        ("same next word", f"{best.top1_agreement:.1%}", "as the 16-bit model"),
    ]
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in figures)
    return (
        f"<section class=answer><p class=k>k&thinsp;=&thinsp;{best.k} "
        f"<span>{escape(NAMES.get(best.grid, best.grid))} · <code>{escape(best.scheme)}</code></span></p>"
        f"<p>{escape(_capital(chosen.reason))}</p><dl class=cards>{cards}</dl></section>"
    )


def _capital(text: str) -> str:
    return text if text.startswith("k = ") else text[:1].upper() + text[1:]


def _how_to_read(best: Row, whole: Row) -> str:
    return (
        "<details><summary>How to read this</summary><ul>"
        "<li><b>k</b> is the number of bits a code has: a weight is one of 2<sup>k</sup> levels times a scale that 64 neighbours share. "
        "The data type says where the levels lie.</li>"
        "<li><b>Bits per weight</b> counts every stored bit of the encoded tensors: codes, scales, codebooks, padding, embedding. "
        "<b>File</b> is what the weight file weighs on disk.</li>"
        "<li><b>KL divergence</b> says how far the model's predictions moved from those of the 16-bit model, in nats a token. "
        "It sees damage that perplexity averages away, and orders rows that the perplexity of a short text cannot tell apart: "
        "the recommendation goes by it. 0.01 nats is a rise of perplexity by 1% on text of the 16-bit model's own making. "
        "The axis is logarithmic: equal steps are equal factors.</li>"
        f"<li><b>Perplexity</b> is how many words the model hesitates between; lower is better, "
        f"and the 16-bit model's {whole.perplexity:.1f} is the goal. "
        "The ± is a 95% interval over the windows of the text: the same text for every row, so rows compare better than it suggests.</li>"
        "<li><b>Top-1</b> is the share of positions where the encoded model's first choice is the 16-bit model's.</li>"
        f"<li>The ring marks the recommended row, {escape(best.scheme)}. Points show their figures under the pointer.</li>"
        "<li>This model is tiny, and tiny models lose more at a given k than large ones: repeat the experiment on yours.</li>"
        "</ul></details>"
    )


def _table(report: Report) -> str:
    head = "<tr><th>scheme<th>bpw<th>file, MB<th>perplexity<th>KL, nats<th>top-1<th>tokens/s</tr>"
    whole = original(report.rows)
    lowest = {k: min(row.kl_mean for row in report.rows if row.k == k) for k in {row.k for row in report.rows}}
    body = [f"<tbody><tr class=group><th colspan=7>16 bits: the original</tr>{_line(whole, '')}</tbody>"]
    for grid, found in series(report.rows).items():
        lines = "".join(_line(row, _classes(row, report.chosen.row, lowest[row.k])) for row in found)
        body.append(f"<tbody><tr class=group><th colspan=7>{escape(NAMES[grid])}</tr>{lines}</tbody>")
    legend = '<p class=note><span class="swatch best"></span> lowest KL at its k <span class="swatch chosen"></span> recommended</p>'
    return f"<div class=scroll tabindex=0><table><thead>{head}</thead>{''.join(body)}</table></div>{legend}"


def _classes(row: Row, best: Row, lowest: float) -> str:
    names = ["chosen"] * (row == best) + ["best"] * (row.kl_mean == lowest)
    return " ".join(names)


def _line(row: Row, classes: str) -> str:
    half = (row.perplexity_high - row.perplexity_low) / 2
    return (
        f'<tr class="{classes}"><th scope=row><code>{escape(row.scheme)}</code><td>{row.bpw:.2f}<td>{row.file_bytes / 1e6:.2f}'
        f"<td>{row.perplexity:.2f} <small>± {half:.2f}</small><td>{row.kl_mean:.4f}<td>{row.top1_agreement:.1%}"
        f"<td>{row.decode_tokens_per_s:.0f}</tr>"
    )


def _texts(report: Report) -> str:
    best = report.chosen.row
    sides = (
        (f"16 bits, {original(report.rows).file_bytes / 1e6:.1f} MB", report.whole_text),
        (f"{best.scheme}, {best.file_bytes / 1e6:.1f} MB", report.best_text),
    )
    blocks = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{_paragraphs(report.prompt, text)}</figure>" for name, text in sides)
    note = "Beam search, same settings. The prompt is in bold."
    return f'<section><h2>The same prompt, written by both</h2><div class="texts">{blocks}</div><p class=note>{note}</p></section>'


def _paragraphs(prompt: str, text: str) -> str:
    rest = text.removeprefix(prompt)
    paragraphs: Sequence[str] = [part.strip("\n") for part in rest.split("\n\n") if part.strip()]
    first, *others = paragraphs or [""]
    return f"<p><b>{escape(prompt)}</b>{escape(first)}</p>" + "".join(f"<p>{escape(part)}</p>" for part in others)


def _facts(report: Report) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items())
    return f"<section><h2>How it was made</h2><pre><code>{escape(report.command)}</code></pre><dl class=facts>{items}</dl></section>"
