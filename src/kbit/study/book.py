"""`LawBook`: fitted laws as a value that can be shared: versioned JSON, read back strictly, used without scipy.

The file says what it was fitted to (digest and number of the rows, series, sources), so that whoever is given a law knows what it is of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from kbit.core.digest import digest_bytes
from kbit.core.errors import FormatError, SchemeError
from kbit.core.files import read_json, write_json
from kbit.core.installation import package_version
from kbit.core.registry import suggest
from kbit.core.strict_json import parse_json
from kbit.study.fitting import Fitting
from kbit.study.laws import FORMS, Law
from kbit.study.laws.latency import LatencyLaw
from kbit.study.rows import Row
from kbit.study.spread import Spread

__all__ = ["BookEntry", "LawBook"]

_FORMAT, _VERSION = "kbit-law", 1


@dataclass(frozen=True, slots=True)
class BookEntry:
    """One law: the form, the widths of its intervals, its held-out error, intervals of its coefficients."""

    law: Law
    spread: Spread
    heldout_error: float | None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LawBook:
    """Laws of the same rows, best first.

    Attributes:
        entries: the laws.
        methods: methods of encoded rows, by how many rows they have.
        series: series of the rows.
        provenance: what they were fitted to.
        latency: time of a token; None where the rows told no speed.
    """

    entries: tuple[BookEntry, ...]
    methods: tuple[str, ...]
    series: tuple[str, ...]
    provenance: Mapping[str, Any]
    latency: LatencyLaw | None = None

    @classmethod
    def of(cls, fitting: Fitting) -> Self:
        """The book of a fit."""
        entries = tuple(BookEntry(one.law, one.spread, one.heldout_error, one.intervals) for one in fitting.laws)
        encoded = [row.method for row in fitting.rows if not row.is_original]
        methods = sorted(set(encoded), key=lambda method: (-encoded.count(method), method))
        series = tuple(dict.fromkeys(row.series for row in fitting.rows))
        return cls(entries, tuple(methods), series, _provenance(fitting.rows), fitting.latency)

    def entry(self, form: str) -> BookEntry:
        """The law of a form.

        Raises:
            SchemeError: the book has none.
        """
        forms = {entry.law.form: entry for entry in self.entries}
        if form not in forms:
            raise SchemeError(f"the law file has no form {form!r}: {suggest(form, forms)}")
        return forms[form]

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "provenance": dict(self.provenance),
            "methods": list(self.methods),
            "series": list(self.series),
            "laws": [
                {
                    "form": entry.law.form,
                    "heldout_error": entry.heldout_error,
                    "law": entry.law.to_json(),
                    "spread": entry.spread.to_json(),
                    "intervals": {name: list(bounds) for name, bounds in entry.intervals.items()},
                }
                for entry in self.entries
            ],
            "latency": None if self.latency is None else self.latency.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any, source: str) -> Self:
        """The book of an object.

        Raises:
            FormatError: it is no law file, of another version, or does not hold what it says; `source` names it.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise FormatError(f"{source}: expected a law file of kbit ('format': {_FORMAT!r}), got none")
        if value.get("version") != _VERSION:
            raise FormatError(f"{source}: 'version': expected {_VERSION}, got {value.get('version')!r:.40}")
        try:
            entries = tuple(_entry(entry) for entry in value["laws"])
            methods, series = (tuple(str(word) for word in value[key]) for key in ("methods", "series"))
            provenance = dict(value["provenance"])
            latency = None if value.get("latency") is None else LatencyLaw.from_json(value["latency"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise FormatError(f"{source}: 'laws': expected what kbit fit writes, got {type(error).__name__}: {error}") from None
        if not entries:
            raise FormatError(f"{source}: 'laws': expected at least one law, got none")
        return cls(entries, methods, series, provenance, latency)

    def save(self, path: str | Path) -> None:
        """Write the book, whole or not at all (`StorageError` where the disk says no)."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """A saved book; without a path the one that comes with the package.

        Raises:
            FormatError, StorageError: it cannot be read.
        """
        if path is None:
            data = files("kbit").joinpath("data", "laws.json").read_bytes()
            return cls.from_json(parse_json(data, "the law of the package"), "the law of the package")
        return cls.from_json(read_json(path), str(path))


def _entry(value: Mapping[str, Any]) -> BookEntry:
    law = FORMS[value["form"]].from_json(value["law"])
    error = value["heldout_error"]
    intervals = {str(name): (float(low), float(high)) for name, (low, high) in value["intervals"].items()}
    return BookEntry(law, Spread.from_json(value["spread"]), None if error is None else float(error), intervals)


def _provenance(rows: tuple[Row, ...]) -> dict[str, Any]:
    lines = sorted(f"{row.cell} {row.perplexity!r}" for row in rows)
    return {
        "rows": len(rows),
        "rows_digest": digest_bytes("\n".join(lines).encode()),
        "models": len({row.model for row in rows}),
        "sources": sorted({str(row.extra["source"]) for row in rows if "source" in row.extra}),
        "kbit": package_version(),
    }
