"""Time of a token from what it reads, what it computes and the machine's roofs:

    seconds = bytes / (memory roof · a) + multiply-adds / (int8 roof · b) + layers · c + d

Bytes are weights and cached keys and values of a step; a and b are the shares of the roofs that the kernels reach, c what a layer costs
besides (barriers, norms, attention), d what a step costs. Fitted to speed rows, errors relative; no coefficient is negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from kbit.core.errors import NumericsError
from kbit.study.laws.robust import Floats, minimize
from kbit.study.rows import Row

__all__ = ["LatencyLaw", "Load", "row_load"]

#: relative error that counts as usual
_SCALE = 0.05
_NAMES = ("1/a", "1/b", "c", "d")
#: coefficients of memory and work are near these; layers and steps cost microseconds
_START = np.array([1.2, 1.0, 5e-6, 2e-5])
_LEAST = np.array([0.5, 0.0, 0.0, 0.0])
_MOST = np.array([20.0, 20.0, 1e-2, 1e-1])


@dataclass(frozen=True, slots=True)
class Load:
    """What a step of one token asks of a machine.

    Attributes:
        read_bytes: of weights and cache.
        multiply_adds: of the matrices.
        layers: of the model.
        memory_gb_per_s, int8_gmac_per_s: roofs of the machine.
    """

    read_bytes: float
    multiply_adds: float
    layers: float
    memory_gb_per_s: float
    int8_gmac_per_s: float

    @property
    def terms(self) -> tuple[float, float, float, float]:
        """Seconds at the roofs, layers, and one step."""
        return self.read_bytes / (self.memory_gb_per_s * 1e9), self.multiply_adds / (self.int8_gmac_per_s * 1e9), self.layers, 1.0


def row_load(row: Row) -> Load | None:
    """The load of a measured row; None where it does not say what its speed depends on."""
    named = ("memory_roof_gb_per_s", "int8_roof_gmac_per_s", "layers")
    memory, compute, layers = (row.number(name) for name in named)
    read = row.number("weight_bytes_per_token") or row.number("file_bytes")
    if memory is None or compute is None or layers is None or read is None or row.number("decode_tokens_per_s") is None:
        return None
    return Load(read, float(row.params), layers, memory, compute)


@dataclass(frozen=True, slots=True)
class LatencyLaw:
    """See the module. `values` are 1/a, 1/b, c and d; `error` the median relative error of rows of left-out models and layouts of bytes."""

    form: ClassVar[str] = "latency"
    formula: ClassVar[str] = "s = bytes/(roof·a) + macs/(roof·b) + layers·c + d"

    values: tuple[float, float, float, float]
    error: float | None = None

    @classmethod
    def fit(cls, rows: Sequence[Row]) -> Self:
        """Fit to the rows that tell their speed and the machine's roofs.

        Raises:
            NumericsError: fewer such rows than coefficients. MissingExtraError: scipy is not installed.
        """
        loads = [(row, load) for row in rows if (load := row_load(row)) is not None]
        if len(loads) < len(_NAMES):
            raise NumericsError(
                f"latency: expected at least {len(_NAMES)} rows with decode_tokens_per_s, layers, bytes and both roofs, got {len(loads)}"
            )
        terms = np.array([load.terms for _, load in loads])
        seconds = np.array([1 / float(row.number("decode_tokens_per_s") or 1.0) for row, _ in loads])
        groups = np.array([f"{row.model} {row.extra.get('speed_scheme') or row.precision}" for row, _ in loads])
        errors: list[float] = []
        for group in dict.fromkeys(groups) if len(set(groups)) > 2 else ():
            out = groups == group
            said = terms[out] @ _fitted(terms[~out], seconds[~out])
            errors += list(np.abs(said / seconds[out] - 1))
        return cls(_four(_fitted(terms, seconds)), float(np.median(errors)) if errors else None)

    def seconds(self, load: Load) -> float:
        """Time of a step of one token."""
        return float(np.dot(self.values, load.terms))

    def coefficients(self) -> dict[str, float]:
        """Numbers by name; c and d in seconds."""
        return dict(zip(_NAMES, self.values, strict=True))

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {"values": list(self.values), "error": self.error}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The law of an object (`KeyError`, `TypeError` or `ValueError` where it is none)."""
        values = [float(number) for number in value["values"]]
        if len(values) != len(_NAMES) or not all(0 <= number < np.inf for number in values) or values[0] <= 0:
            raise ValueError(f"latency has {len(_NAMES)} coefficients, none negative")
        return cls(_four(values), None if value.get("error") is None else float(value["error"]))


def _four(values: Sequence[float] | Floats) -> tuple[float, float, float, float]:
    memory, compute, layer, step = (float(value) for value in values)
    return memory, compute, layer, step


def _fitted(terms: Floats, seconds: Floats) -> Floats:
    scaled = terms * _START / seconds[:, None]

    def residuals(c: Floats) -> Floats:
        out: Floats = np.log(np.maximum(scaled @ c, 1e-12)) / _SCALE
        return out

    def jacobian(c: Floats) -> Floats:
        out: Floats = scaled / np.maximum(scaled @ c, 1e-12)[:, None] / _SCALE
        return out

    starts = [np.ones(len(_START)), np.array([1.0, 0.2, 0.2, 0.2]), np.array([2.0, 0.1, 3.0, 3.0])]
    found: Floats = minimize(residuals, jacobian, starts, (_LEAST / _START, _MOST / _START)) * _START
    return found
