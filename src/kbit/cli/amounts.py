"""Amounts as people type them: ``8GB``, ``6.5 GiB``, ``16k``."""

import re

import typer

__all__ = ["parse_bytes", "parse_positions"]

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_AMOUNT = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]{0,3})\s*")


def parse_bytes(text: str, option: str) -> int:
    """Bytes of a text: a number with B, kB, MB, GB, TB or KiB, MiB, GiB, TiB.

    Raises:
        typer.BadParameter: it is none, or nothing.
    """
    match = _AMOUNT.fullmatch(text)
    unit = _BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise typer.BadParameter(f"expected an amount of memory such as 8GB or 6.5GiB, got {text!r:.60}", param_hint=option)
    return int(float(match[1]) * unit)


def parse_positions(text: str, option: str) -> int:
    """Tokens of a text: a number, or one with k for 1,024.

    Raises:
        typer.BadParameter: it is none, or nothing.
    """
    match = _AMOUNT.fullmatch(text)
    factor = {"": 1, "k": 1024}.get(match[2].lower()) if match else None
    if match is None or factor is None or float(match[1]) * factor < 1:
        raise typer.BadParameter(f"expected a number of tokens such as 4096 or 16k, got {text!r:.60}", param_hint=option)
    return int(float(match[1]) * factor)
