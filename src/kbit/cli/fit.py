"""`kbit fit`: laws of anyone's rows, and what they predict."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, columns, verb
from kbit.core.sizes import count_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kbit.study.fitting import FittedLaw, Fitting
    from kbit.study.laws.latency import LatencyLaw
    from kbit.study.predict import Prediction
    from kbit.study.rows import Row

__all__ = ["fit"]

_MOST_LISTED = 12


@verb
def fit(
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="Measured rows: a .csv or .parquet file, or a study.")],
    predict: Annotated[
        str | None, typer.Option("--predict", metavar="ROWS", help="Rows to predict; a perplexity among them is not looked at.")
    ] = None,
    form: Annotated[
        str,
        typer.Option("--form", metavar="FORM", help="power, ouyang, gaussian, kumar, bit-level, or auto: all, the best answers."),
    ] = "auto",
    output_file: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Keep the laws here, as JSON.")] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, max=10_000, help="Draws behind the intervals of coefficients; 0 for none.")
    ] = 40,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the draws.")] = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit laws of loss against size and bits to measured rows, and tell them apart by models left out of the fit."""
    from kbit.core.progress import Progress
    from kbit.study.book import LawBook
    from kbit.study.fitting import chosen_forms, fit_laws
    from kbit.study.predict import predict_rows
    from kbit.study.tables import read_rows

    output = Output(json)
    chosen_forms(form)
    measured = read_rows(rows)
    wanted = read_rows(predict, measured=False) if predict else ()
    with Progress(None, "steps", "fitting") as progress:
        fitting = fit_laws(measured, form, draws=bootstrap, seed=seed, progress=lambda *_: progress.advance(1))
    book = LawBook.of(fitting)
    if output_file:
        book.save(output_file)
    found = predict_rows(book, wanted)
    _say(fitting, output)
    if wanted:
        output.say()
        output.say(_predictions(wanted, found))
    if output_file:
        output.say(f"kept in {output_file}")
    output.result(
        {
            "laws": [*(_law_json(one) for one in fitting.laws), *_latency_json(fitting.latency)],
            "refused": dict(fitting.refused),
            "outliers": [_outlier_json(miss) for miss in fitting.outliers()],
            "predictions": [one.to_json() for one in found],
        }
    )


def _say(fitting: "Fitting", output: Output) -> None:
    models = len({row.model for row in fitting.rows})
    output.say(f"{count_text(len(fitting.rows), 'row')} of {count_text(models, 'model')}; each model is left out of the fit once")
    output.say()
    output.say(error_table(fitting.laws))
    output.say(
        "median |Δ log perplexity| of left-out models; inside: sizes between others of their family; all: geometric mean of precisions"
    )
    if fitting.latency is not None:
        error = "" if fitting.latency.error is None else f"; off by {fitting.latency.error:.1%} on rows left out (median)"
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in fitting.latency.coefficients().items())
        output.say(f"latency: {fitting.latency.formula}: {numbers}{error}")
    for name, reason in fitting.refused.items():
        output.say(f"not fitted: {name}: {reason}")
    outliers = fitting.outliers()
    if outliers:
        output.say()
        output.say(f"outliers of {fitting.laws[0].law.form}, where the law is far off and the interval is wide for it:")
        for miss in outliers[:_MOST_LISTED]:
            row = miss.row
            output.say(f"  {row.family} {row.params:,} {row.precision}: measured {row.perplexity:.5g}, off by {miss.error:+.2f} nats")
        if len(outliers) > _MOST_LISTED:
            output.say(f"  and {len(outliers) - _MOST_LISTED} more")


def error_table(laws: "Sequence[FittedLaw]") -> str:
    """Forms with their held-out errors, overall and for the precisions that most models have."""
    from kbit.study.fitting import error_columns

    shown, column_of = error_columns(laws)
    table = []
    for one in laws:
        inside = {name: [abs(miss.error) for miss in one.misses if column_of(miss.row) == name and miss.beyond == 0] for name in shown}
        table.append([one.law.form, _figure(one.heldout_error), *(_figure(_median(errors)) for errors in inside.values())])
    return columns(["form", "all", *(f"{name} inside" for name in shown)], table)


def _predictions(rows: "Sequence[Row]", found: "Sequence[Prediction]") -> str:
    table = [
        [row.family, f"{row.params:,}", row.precision, f"{one.perplexity:.5g}", f"{one.low:.5g}…{one.high:.5g}", one.form, one.note]
        for row, one in zip(rows, found, strict=True)
    ]
    return columns(["family", "params", "precision", "perplexity", "90 % interval", "form", ""], table, left=3)


def _law_json(one: "FittedLaw") -> dict[str, Any]:
    return {
        "form": one.law.form,
        "formula": one.law.formula,
        "coefficients": one.law.coefficients(),
        "intervals": {name: list(bounds) for name, bounds in one.intervals.items()},
        "heldout_error": one.heldout_error,
        "heldout_rows": len(one.misses),
    }


def _latency_json(law: "LatencyLaw | None") -> list[dict[str, Any]]:
    if law is None:
        return []
    about = {"form": law.form, "formula": law.formula, "coefficients": law.coefficients(), "intervals": {}}
    return [about | {"heldout_error": law.error}]


def _outlier_json(miss: Any) -> dict[str, Any]:
    row = miss.row
    return {"family": row.family, "params": row.params, "precision": row.precision, "perplexity": row.perplexity, "error": miss.error}


def _median(errors: "Sequence[float]") -> float | None:
    ordered = sorted(errors)
    middle = len(ordered) // 2
    return None if not ordered else ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
