"""How a message quotes a value that may come from anywhere: cut before it is written out, never longer than some lines."""

import reprlib

__all__ = ["shown"]

_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = 80
_QUOTE.maxlevel = 2


def shown(value: object) -> str:
    """`repr` of a value, with the middle of long texts and the rest of long collections left out."""
    return _QUOTE.repr(value)
