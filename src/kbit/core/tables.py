"""TOML files that people write: typed, bounded, every unknown word refused by file and field.

`read_toml` gives a `Table`; whoever reads it asks for each key it knows and calls `finish`, which refuses what nobody asked for.
"""

import math
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kbit.core.errors import FormatError, LimitError, SchemeError
from kbit.core.files import open_regular, storage_errors
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["REQUIRED", "Table", "read_toml"]

#: default of a key that must be there
REQUIRED: Any = object()
MAX_TOML_BYTES = 4 << 20


class Table:
    """One table of a file.

    Args:
        values: its keys.
        source: the file, for messages.
        place: dotted name of the table inside the file, empty for the file itself.
    """

    def __init__(self, values: dict[str, Any], source: str, place: str = "") -> None:
        self._values, self._source, self._place = values, source, place
        self._asked: dict[str, None] = {}

    def where(self, key: str) -> str:
        """File and field, as messages name them."""
        return f"{self._source}: {self._place}{'.' * bool(self._place)}{key}"

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def value(self, key: str, default: Any = REQUIRED) -> Any:
        """The value as it is."""
        self._asked[key] = None
        if key in self._values:
            return self._values[key]
        if default is REQUIRED:
            near = [name for name in self._values if name not in self._asked]
            raise SchemeError(f"{self.where(key)} is missing" + (f" (there is {shown(near[0])})" if len(near) == 1 else ""))
        return default

    def text(self, key: str, default: Any = REQUIRED, *, choices: Iterable[str] | None = None) -> Any:
        """A text, one of `choices` where they are given."""
        value = self.value(key, default)
        if value is default and key not in self._values:
            return value
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        if choices is not None and value not in (known := list(choices)):
            raise SchemeError(f"{self.where(key)}: unknown word {shown(value)}: {suggest(value, known)}")
        return value

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 2**62) -> Any:
        """An integer in `least` … `most`."""
        value = self.value(key, default)
        if value is default and key not in self._values:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, f"an integer {_span(least, most)}", value)
        return value

    def number(self, key: str, default: Any = REQUIRED, *, least: float = 0.0, most: float = math.inf) -> Any:
        """A finite number in `least` … `most`."""
        value = self.value(key, default)
        if value is default and key not in self._values:
            return value
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not least <= value <= most:
            raise self._wrong(key, f"a number {_span(least, most)}", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str, default: Any = REQUIRED) -> tuple[str, ...]:
        """A list of texts; a single text counts as a list of one."""
        value = self.value(key, default)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise self._wrong(key, "a list of texts", value)
        return tuple(items)

    def integers(self, key: str, default: Any = REQUIRED) -> tuple[int, ...]:
        """A list of integers; a single one counts as a list of one."""
        value = self.value(key, default)
        items = [value] if isinstance(value, int) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self._wrong(key, "a list of integers", value)
        return tuple(items)

    def table(self, key: str, default: Any = REQUIRED) -> "Table":
        """A table inside this one."""
        value = self.value(key, default)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", value)
        return Table(value, self._source, f"{self._place}{'.' * bool(self._place)}{key}")

    def tables(self, key: str, default: Any = REQUIRED) -> "list[Table]":
        """A list of tables (``[[key]]``)."""
        value = self.value(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, f"tables [[{key}]]", value)
        place = f"{self._place}{'.' * bool(self._place)}{key}"
        return [Table(item, self._source, f"{place}[{index}]") for index, item in enumerate(value)]

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            SchemeError: names file, field and the closest known word.
        """
        for key in self._values:
            if key not in self._asked:
                raise SchemeError(f"{self.where(key)}: unknown word {shown(key)}: {suggest(key, self._asked)}")

    def _wrong(self, key: str, expected: str, value: object) -> SchemeError:
        return SchemeError(f"{self.where(key)}: expected {expected}, got {shown(value)}")


def _span(least: float, most: float) -> str:
    return f"of at least {least}" if most in (math.inf, 2**62) else f"in {least}…{most}"


def read_toml(path: str | Path) -> Table:
    """The whole of a TOML file.

    Raises:
        FormatError: it is not TOML (names the line), not UTF-8, or no file.
        LimitError: more than `MAX_TOML_BYTES`.
        StorageError: it cannot be read.
    """
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read(MAX_TOML_BYTES + 1)
    if len(data) > MAX_TOML_BYTES:
        raise LimitError(f"{path}: expected at most {MAX_TOML_BYTES} bytes of TOML, got more")
    try:
        return Table(tomllib.loads(data.decode("utf-8")), str(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected TOML: {error}") from None
