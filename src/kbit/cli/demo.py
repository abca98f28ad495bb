"""`kbit demo`: the whole way on the embedded model: encode at every k, measure, draw, recommend, write a paragraph."""

import csv
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, columns, verb
from kbit.cli.tradeoff import NAMES, Recommendation, Row, original, recommend, series

if TYPE_CHECKING:
    from kbit.cli.experiment import Experiment, Texts

__all__ = ["demo"]

_WIDTH = 78


@verb
def demo(
    output_folder: Annotated[
        str, typer.Option("-o", "--output", metavar="DIR", help="Folder for report, plots, rows and model.")
    ] = "kbit-demo",
    bits: Annotated[str, typer.Option(metavar="LIST", help="The k to try, 2…8, separated by commas.")] = "2,3,4,5,6,7,8",
    tokens: Annotated[int, typer.Option(metavar="N", min=512, help="Tokens of text to measure on, from eight books alike.")] = 4096,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads; so small a model runs fastest on one.")] = 1,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode the embedded language model at every k by five data types, measure each, and recommend one (under 3 minutes).

    Writes report.html (self-contained), tradeoff.svg, tradeoff.png (where matplotlib is installed), rows.csv, and the
    recommended model.
    """
    chosen_bits = _bits(bits)
    from kbit.cli.experiment import Experiment
    from kbit.cli.threads import use_threads

    output, started, folder = Output(json), time.perf_counter(), Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    use_threads(threads)
    with Experiment(chosen_bits, tokens) as experiment:
        output.note(f"{experiment.name}: {len(experiment.plans)} encodings and the original; {experiment.windows.protocol.text}")
        rows = experiment.rows()
        chosen = recommend(rows)
        experiment.keep(chosen.row, folder / "model")
        texts = experiment.texts(folder / "model")
        report = _write(folder, rows, chosen, texts, experiment, output)
        _print(output, rows, chosen, texts, experiment.caption)
    output.say(f"\nreport {report}, model {folder / 'model'}, {time.perf_counter() - started:.0f} s in all")
    output.say(f'next: kbit run {folder / "model"} "{texts.prompt}" --beams 5 --no-repeat 3')
    output.result(
        {"rows": [row.to_json() for row in rows], "recommended": chosen.row.scheme, "reason": chosen.reason, "report": str(report)}
    )


def _bits(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word in "2345678" and len(word) == 1 for word in words):
        raise typer.BadParameter(f"--bits takes numbers from 2 to 8 separated by commas, got {text!r}")
    return sorted({int(word) for word in words})


def _write(folder: Path, rows: Sequence[Row], chosen: Recommendation, texts: "Texts", experiment: "Experiment", output: Output) -> Path:
    """All files but the model; returns the path of the report."""
    from kbit.cli.plots import panels, write_png, write_svg
    from kbit.cli.report import Report, render

    drawn = panels(rows, chosen)
    write_svg(folder / "tradeoff.svg", drawn)
    if not write_png(folder / "tradeoff.png", drawn):
        output.note("no tradeoff.png: matplotlib is not installed (pip install 'kbit[study]'); tradeoff.svg shows the same")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0].to_json()))
        writer.writeheader()
        writer.writerows(row.to_json() for row in rows)
    page = Report(
        model=experiment.name,
        rows=tuple(rows),
        chosen=chosen,
        panels=drawn,
        prompt=texts.prompt,
        whole_text=texts.prompt + texts.whole.text,
        best_text=texts.prompt + texts.best.text,
        caption=experiment.caption,
        facts=experiment.facts(),
        command="kbit demo\nkbit quantize MODEL --scheme " + chosen.row.scheme + " --embedding int8:g64 -o DIR",
    )
    path = folder / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


def _print(output: Output, rows: Sequence[Row], chosen: Recommendation, texts: "Texts", caption: str) -> None:
    from kbit.cli.plots import terminal_chart

    output.say(_table(rows, chosen.row))
    output.say()
    output.say(_wrapped(caption))
    output.say()
    ascii_only = not (output.people.encoding or "").lower().startswith("utf")
    output.say(terminal_chart(rows, chosen, ascii_only=ascii_only))
    output.say()
    output.say(_wrapped(f"Recommended: {chosen.row.scheme}. {chosen.reason}"))
    for name, written in (("16 bits", texts.whole), (chosen.row.scheme, texts.best)):
        output.say(f"\n── {name} " + "─" * (_WIDTH - len(name) - 4))
        output.say(_wrapped(texts.prompt + written.text))


def _table(rows: Sequence[Row], best: Row) -> str:
    lines = [_line(original(rows), "")]
    for found in series(rows).values():
        lines += [_line(row, " ◂" if row == best else "") for row in found]
    return columns(["scheme", "type", "bpw", "MB", "perplexity", "KL", "top-1", "tok/s"], lines, left=2)


def _line(row: Row, mark: str) -> list[str]:
    half = (row.perplexity_high - row.perplexity_low) / 2
    return [
        row.scheme + mark,
        NAMES.get(row.grid, "original"),
        f"{row.bpw:.2f}",
        f"{row.file_bytes / 1e6:.2f}",
        f"{row.perplexity:.2f} ± {half:.2f}",
        f"{row.kl_mean:.4f}",
        f"{row.top1_agreement:.1%}",
        f"{row.decode_tokens_per_s:.0f}",
    ]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in text.split("\n"))
