"""Tables of a study as HTML: forms with their held-out errors, coefficients, outliers, and all rows."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from kbit.study.fitting import FittedLaw, Fitting, error_columns
from kbit.study.rows import Row

__all__ = ["coefficient_table", "count_of", "form_table", "model_name", "outlier_table", "row_table", "table"]

_MOST_ROWS = 600
_MOST_COEFFICIENTS = 120


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table that scrolls by itself; cells are text."""
    head = "".join(f"<th>{escape(cell)}" for cell in header)
    body = "".join(f"<tr><th scope=row>{escape(row[0])}{''.join(f'<td>{escape(cell)}' for cell in row[1:])}</tr>" for row in rows)
    note = f"<p class=note>{escape(caption)}</p>" if caption else ""
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def form_table(laws: Sequence[FittedLaw]) -> str:
    """Forms, best first: their formula and median errors by precision."""
    shown, column_of = error_columns(laws)
    rows = [
        [
            one.law.form,
            "" if one.heldout_error is None else f"{one.heldout_error:.4f}",
            *(_median([abs(miss.error) for miss in one.misses if column_of(miss.row) == name]) for name in shown),
            one.law.formula,
        ]
        for one in laws
    ]
    return table(
        ["form", "usual error", *shown, "formula"], rows, caption="|Δ log perplexity| of left-out models: medians, in nats a token."
    )


def coefficient_table(law: FittedLaw) -> str:
    """Coefficients of a law with their bootstrap intervals."""
    found = list(law.law.coefficients().items())
    rows = []
    for name, value in found[:_MOST_COEFFICIENTS]:
        interval = law.intervals.get(name)
        rows.append([name, f"{value:.4g}", "" if interval is None else f"{interval[0]:.4g} … {interval[1]:.4g}"])
    left = len(found) - len(rows)
    return table(["coefficient", "value", "90 % interval"], rows, caption=f"and {left} more in the law's JSON" if left else "")


def outlier_table(fitting: Fitting) -> str:
    """Rows that the best law is far off at."""
    rows = [[model_name(miss.row), miss.row.precision, f"{miss.row.perplexity:.5g}", f"{miss.error:+.2f}"] for miss in fitting.outliers()]
    if not rows:
        return "<p>No row is far off.</p>"
    return table(["model", "precision", "measured", "law less measured, nats"], rows)


def row_table(rows: Sequence[Row]) -> str:
    """All rows, by series, size and bits."""
    ordered = sorted(rows, key=lambda row: (row.series, row.params, -row.bpw))
    body = [
        [
            model_name(row),
            str(row.extra.get("scheme") or row.precision),
            f"{row.bpw:.3f}",
            f"{row.dataset}, {row.context}",
            f"{row.perplexity:.5g}",
            "" if (kl := row.number("kl_mean")) is None else f"{kl:.4f}",
            "" if (speed := row.number("decode_tokens_per_s")) is None else f"{speed:.4g}",
        ]
        for row in ordered[:_MOST_ROWS]
    ]
    header = ["model", "scheme", "bpw", "text", "perplexity", "KL", "tokens/s"]
    told = [at for at in range(len(header)) if any(line[at] for line in body)]
    caption = f"The first {_MOST_ROWS} of {len(ordered)} rows; all are in the study's table." if len(ordered) > _MOST_ROWS else ""
    return table([header[at] for at in told], [[line[at] for at in told] for line in body], caption=caption)


def model_name(row: Row) -> str:
    """Its own name, or family and size."""
    return str(row.extra.get("model") or f"{row.family} {count_of(row.params)}")


def count_of(params: int) -> str:
    """Parameters in words: ``1.3 billion``."""
    return f"{params / 1e9:.3g} billion" if params >= 1e9 else f"{params / 1e6:.3g} million"


def _median(errors: Sequence[float]) -> str:
    return f"{float(np.median(errors)):.4f}" if errors else ""
