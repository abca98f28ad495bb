"""What a verb says: people read tables, programs read one JSON object, and an error is one line.

Exit codes: 0 success, 1 a typed error, 2 bad usage (typer's own), 130 interrupted, 141 the reader of stdout went away.
"""

import functools
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, TextIO

import typer

from kbit.core.errors import KbitError, MissingExtraError
from kbit.core.installation import EXTRA_OF

__all__ = ["Output", "columns", "verb"]

P = ParamSpec("P")


class Output:
    """Where the words of one verb go."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def people(self) -> TextIO:
        """The stream for what people read: stdout, or stderr when stdout carries JSON."""
        return sys.stderr if self.as_json else sys.stdout

    def say(self, text: str = "") -> None:
        """A line of the result."""
        print(text, file=self.people, flush=True)

    def note(self, text: str) -> None:
        """A line about what is going on; never on stdout."""
        print(text, file=sys.stderr, flush=True)

    def result(self, values: Mapping[str, Any]) -> None:
        """The machine-readable result; printed only with ``--json``."""
        if self.as_json:
            print(json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """JSON-able copy; numbers without a JSON form (NaN, Inf) become null rather than a wrong figure."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy scalars
        return _plain(value.item())
    return str(value)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A plain table: the first `left` columns flush left, the others flush right."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """A verb's body with its errors turned into one line on stderr and an exit code."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(141) from None
        except ModuleNotFoundError as error:
            extra = EXTRA_OF.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _report(MissingExtraError(str(error.name), extra), debug)
        except (KbitError, OSError) as error:
            _report(error, debug)

    return guarded


def _report(error: Exception, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(f"kbit: {_one_line(error)}", file=sys.stderr)
    raise typer.Exit(1) from None


def _one_line(error: Exception) -> str:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about the reader that left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
