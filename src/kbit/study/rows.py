"""Rows of a study: what each cell measured, in a table that anyone may have made.

Needed columns: ``family, params, method, bits, group_size, bpw, dataset, context, perplexity``. A row of method ``none`` (or of 16 bits
and more) is the original. Perplexities compare within a series only: one family, dataset and context. Columns that are not known here are
kept as they come.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbit.core.errors import FormatError, NumericsError
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["NEEDED", "NUMBERS", "ORIGINAL_BITS", "Row", "check_rows", "weight_counts"]

NEEDED = ("family", "params", "method", "bits", "group_size", "bpw", "dataset", "context", "perplexity")
#: known columns that may be missing or empty and are positive numbers where they are not
NUMBERS = (
    "bpw_file", "file_bytes", "weight_bytes_per_token", "loss_nats", "prefill_tokens_per_s", "decode_tokens_per_s", "threads",
    "peak_rss_bytes", "seconds", "hidden_size", "layers", "grid_mse", "trained_tokens", "memory_roof_gb_per_s", "int8_roof_gmac_per_s",
)  # fmt: skip
#: known columns that are finite numbers, zero among them
_SIGNED = ("kl_mean", "top1_agreement", "accuracy", "quantized_weights")
#: known columns of words
_WORDS = ("model", "scheme", "grid", "source", "machine")
#: columns that tell two cells apart
_AXES = ("model", "scheme", "grid", "embedding", "head", "threads", "machine", "seed")
#: a row of so many bits is an original
ORIGINAL_BITS = 16
_DONE = ("", "ok", "done", "success")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured cell.

    Attributes:
        family: models of one recipe.
        params: parameters of the model.
        method: how codes were chosen, in words of whoever measured; ``none`` for the original.
        bits: of a code.
        group_size: weights that share a scale; -1 for a row.
        bpw: stored bits a weight.
        dataset, context: text and window that the perplexity is of.
        perplexity: exp of the mean loss a token; None only in rows that are to be predicted.
        place: file and line, for messages.
        extra: all other columns: numbers where they are known to be, else texts.
    """

    family: str
    params: int
    method: str
    bits: float
    group_size: int
    bpw: float
    dataset: str
    context: int
    perplexity: float | None
    place: str = ""
    extra: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def is_original(self) -> bool:
        """True for the model as it was before encoding."""
        return self.method == "none" or self.bits >= ORIGINAL_BITS

    @property
    def series(self) -> str:
        """Family, dataset and context: what perplexities compare within."""
        return f"{self.family}/{self.dataset}/{self.context}"

    @property
    def model(self) -> tuple[str, str, int]:
        """What a model is told from others by."""
        return self.family, str(self.extra.get("model", "")), self.params

    @property
    def precision(self) -> str:
        """Method and scheme in a text (``imp+gptq nf3:g64``), or where no scheme is told, bits and group size (``gptq 3 g128``)."""
        if self.is_original:
            return "none 16"
        scheme = str(self.extra.get("scheme", "")).partition("+")[0]
        if scheme:
            return f"{self.method} {scheme}"
        grid = str(self.extra.get("grid", ""))
        group = "" if self.group_size == -1 else f" g{self.group_size}"
        return f"{self.method} {grid}{self.bits:g}{group}"

    def number(self, name: str) -> float | None:
        """An optional column that is a number; None where it is missing."""
        value = self.extra.get(name)
        return float(value) if isinstance(value, int | float) else None

    @property
    def cell(self) -> tuple[object, ...]:
        """What no two rows may have in common."""
        axes = tuple(self.extra.get(axis, "") for axis in _AXES)
        return (self.series, self.params, self.method, self.bits, self.group_size, round(self.bpw, 6), *axes)


def weight_counts(rows: Iterable[Row]) -> dict[tuple[str, str, int], float]:
    """Weights of each model that encodings take bits of: what its rows tell (embeddings may stay as they are), else all parameters."""
    rows = list(rows)
    told = {row.model: count for row in rows if (count := row.number("quantized_weights"))}
    return {row.model: told.get(row.model, float(row.params)) for row in rows}


def check_rows(
    records: Iterable[Mapping[str, Any]], columns: Sequence[str], source: str, *, measured: bool = True, first: int = 2
) -> tuple[Row, ...]:
    """Rows from records of a table.

    Args:
        records: a mapping a row, values as texts or numbers; empty texts and None are missing.
        columns: of the table.
        source: name of the file.
        measured: False for rows that are to be predicted: their perplexity may be missing, and cells may come twice.
        first: number of the first record in the file.

    Raises:
        FormatError: a needed column is missing, a cell is there twice, or there is no row.
        NumericsError: a value that is no number, not finite, or not in its range; named by file, row and field.
    """
    needed = [name for name in NEEDED if measured or name != "perplexity"]
    for name in needed:
        if name not in columns:
            raise FormatError(f"{source}: expected a column {name!r}: {suggest(name, columns)}")
    rows: list[Row] = []
    seen: dict[tuple[object, ...], str] = {}
    for index, record in enumerate(records, first):
        place = f"{source}: row {index}"
        if str(record.get("status") or "").lower() not in _DONE:
            continue  # a cell that failed is a row with its reason, and nothing to fit
        row = _row(record, place, measured)
        if measured and row.cell in seen:
            raise FormatError(
                f"{place}: {row.family} {row.params} {row.precision} is there already, in {seen[row.cell].rpartition(': ')[2]}"
            )
        seen[row.cell] = place
        rows.append(row)
    if not rows:
        raise FormatError(f"{source}: expected at least one row with figures, got none")
    return tuple(rows)


def _row(record: Mapping[str, Any], place: str, measured: bool) -> Row:
    read = _Reader(record, place)
    perplexity = read.number("perplexity", above=0.0) if measured or not read.missing("perplexity") else None
    return Row(
        family=read.word("family"),
        params=round(read.number("params", above=0.0)),
        method=read.word("method"),
        bits=read.number("bits", above=0.0, most=64),
        group_size=read.group(),
        bpw=read.number("bpw", above=0.0, most=64),
        dataset=read.word("dataset"),
        context=round(read.number("context", above=0.0)),
        perplexity=perplexity,
        place=place,
        extra=dict(read.extra()),
    )


class _Reader:
    """Values of one record, each checked as it is asked for."""

    def __init__(self, record: Mapping[str, Any], place: str) -> None:
        self.record, self.place = record, place

    def missing(self, name: str) -> bool:
        """True for nothing, and for a text of nothing."""
        value = self.record.get(name)
        return value is None or (isinstance(value, str) and not value.strip())

    def word(self, name: str) -> str:
        """A text that says something."""
        if self.missing(name):
            raise FormatError(f"{self.place}: {name}: expected a text, got nothing")
        return str(self.record[name]).strip()

    def number(self, name: str, *, above: float = -math.inf, most: float = math.inf) -> float:
        """A finite number above `above`."""
        value = self.record.get(name)
        wanted = "a number" if above == -math.inf else f"a number above {above:g}"
        if self.missing(name) or isinstance(value, bool):
            raise NumericsError(f"{self.place}: {name}: expected {wanted}, got {'nothing' if self.missing(name) else value!r}")
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise NumericsError(f"{self.place}: {name}: expected {wanted}, got {shown(value)}") from None
        if not math.isfinite(number) or number <= above or number > most:
            limit = "" if most == math.inf else f" and at most {most:g}"
            raise NumericsError(f"{self.place}: {name}: expected {wanted}{limit}, got {shown(value)}")
        return number

    def group(self) -> int:
        """A group size: -1 or a positive integer."""
        number = self.number("group_size")
        if number != round(number) or (number != -1 and number < 1):
            raise NumericsError(f"{self.place}: group_size: expected -1 or a positive integer, got {number:g}")
        return round(number)

    def extra(self) -> Iterator[tuple[str, float | str]]:
        """Columns beyond the needed ones, without those that are empty."""
        for name in self.record:
            if name is None or name in NEEDED or name == "status" or self.missing(name):
                continue
            if name in NUMBERS:
                yield name, self.number(name, above=0.0)
            elif name in _SIGNED:
                yield name, self.number(name)
            else:
                value = self.record[name]
                yield name, value if isinstance(value, int | float) and name not in _WORDS else str(value).strip()
