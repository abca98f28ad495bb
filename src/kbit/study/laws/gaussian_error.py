"""ρ of a scheme: its mean squared error on normal weights, over their variance. What a data type does to a weight, before any model.

Measured by the encoder itself on a fixed sample (262,144 draws of a fixed seed), so it counts groups, scales and their rounding too. Rows
of 4,096 where the scheme has one scale a row and nothing says how long it is: the largest of a row grows with its length.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from kbit.core.errors import KbitError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.study.rows import Row

__all__ = ["row_error", "row_scheme", "scheme_error"]

_WEIGHTS = 1 << 18
_LONG_ROW = 4096
#: methods of published rows that stand for linear codes with zero points, as in the GPTQ paper
_LINEAR_METHODS = ("rtn", "gptq")


def scheme_error(scheme: Scheme, cols: int = _LONG_ROW) -> float:
    """Relative mean squared error of a scheme on normal weights in rows of `cols`; methods that look at inputs count as none.

    Raises:
        SchemeError: the scheme leaves tensors in 16 bits.
    """
    plain = replace(scheme, methods=())
    if plain.group_size != -1:
        cols = max(plain.group_size, _LONG_ROW // plain.group_size * plain.group_size)
    return _measured(plain.text, min(cols, _WEIGHTS // 16))


def row_scheme(row: Row) -> Scheme | None:
    """The scheme of a row: its text, or its data type with its bits and group size; None where neither can be read."""
    text = row.extra.get("scheme")
    try:
        if text is not None:
            return Scheme.parse(str(text))
        grid = str(row.extra.get("grid", "")) or ("int" if row.method in _LINEAR_METHODS else "")
        if not grid or row.bits != round(row.bits):
            return None
        asymmetric = ":asym" if "grid" not in row.extra else ""
        return Scheme.parse(f"{grid}{row.bits:g}:g{row.group_size}{asymmetric}")
    except KbitError:
        return None


def row_error(row: Row) -> float | None:
    """ρ of a row: its column ``grid_mse``, or that of its scheme; None where there is neither."""
    given = row.number("grid_mse")
    if given is not None:
        return given
    scheme = row_scheme(row)
    if scheme is None or scheme.is_none:
        return None
    cols = row.number("hidden_size")
    return scheme_error(scheme, _LONG_ROW if cols is None else max(int(cols) // 16 * 16, 16))


@lru_cache(maxsize=4096)
def _measured(text: str, cols: int) -> float:
    weights = np.random.default_rng(2026).standard_normal((_WEIGHTS // cols, cols)).astype(np.float32)
    decoded = encode(weights, Scheme.parse(text), name=text).dequantize()
    return float(np.mean((decoded - weights) ** 2) / np.mean(weights**2))
