"""JSON that means one thing: no NaN or overflow, no key twice, UTF-8 only, bounded depth; bytes in, bytes out.

What `dump_json` writes, `parse_json` reads. The depth is counted on the bytes, before a parser that recurses sees them.
"""

import json
import math
import re
from typing import Any, NoReturn

from kbit.core.brackets import nesting
from kbit.core.errors import FormatError
from kbit.core.shown import shown

__all__ = ["MAX_DEPTH", "check_keys", "dump_json", "held_bytes", "parse_json"]

#: containers within containers; configurations and file headers need fewer than ten
MAX_DEPTH = 64

_ASTRAL = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes, source: str) -> Any:
    """The value of the JSON text `data`; `source` names it in errors.

    Raises:
        FormatError: it is not JSON in UTF-8, is nested deeper than `MAX_DEPTH`, has a key twice, NaN, an infinite or overflowing
            number, or an unpaired surrogate.
    """
    deepest = nesting(data, MAX_DEPTH).deepest
    if deepest > MAX_DEPTH:
        raise FormatError(f"{source}: expected JSON at most {MAX_DEPTH} levels deep, got {deepest}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE_ESCAPE.search(text):  # valid as pairs only; encoding finds the rest
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{source}: expected Unicode text, got an unpaired surrogate") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{source}: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}") from None
    except ValueError as error:
        raise FormatError(f"{source}: expected JSON: {error}") from None
    return value


def dump_json(value: Any, source: str, *, indent: int | None = 2, sort_keys: bool = False) -> bytes:
    """`value` as JSON text in UTF-8 with a final newline, read back before it is returned.

    Raises:
        FormatError: `parse_json` would refuse it, or it holds what JSON cannot.
    """
    try:
        check_keys(value)
        text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
        data = text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise FormatError(f"{source}: expected a value that JSON can hold: {error}") from None
    parse_json(data, source)
    return data


def held_bytes(data: bytes, begin: int = 0, end: int | None = None) -> int:
    """Most bytes that Python needs for the text data[begin:end]: it gives every character the room of the widest, 1, 2 or 4 bytes."""
    end = len(data) if end is None else end
    if data.find(b"\\u", begin, end) < 0 and data[begin:end].isascii():
        return end - begin
    return (4 if _ASTRAL.search(data, begin, end) else 2) * (end - begin)


def check_keys(value: Any) -> None:
    """Raises TypeError for a key that is not a text, of which JSON would make one: 1 and "1" would be the same."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is {type(key).__name__}, not str")
            check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_keys(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} is there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"number {digits[:40]} is beyond float64")
    return value
