"""Amounts as people read them."""

__all__ = ["bytes_text", "count_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def bytes_text(size_bytes: float) -> str:
    """A size with three digits, decimal units: ``2.31 MB``."""
    power = 0
    while size_bytes >= 999.5 and power < len(_UNITS) - 1:
        size_bytes, power = size_bytes / 1000, power + 1
    return f"{size_bytes:.3g} {_UNITS[power]}"


def count_text(count: int, noun: str) -> str:
    """A number with its noun: ``1 file``, ``2 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
