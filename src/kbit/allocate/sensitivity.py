"""`Sensitivity`: what the model loses with one weight under one scheme, for each weight and scheme that was tried.

The loss of a plan is taken as the sum over its weights: errors of different weights are nearly independent, so their cross terms in the
second-order expansion of the KL divergence have mean 0. `benchmarks/allocation.py` holds the sum against whole models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from kbit.core.errors import FormatError, SchemeError
from kbit.core.files import read_json, write_json
from kbit.core.scheme import Scheme

if TYPE_CHECKING:
    from kbit.allocate.units import Unit

__all__ = ["FILE_NAME", "Loss", "Method", "Sensitivity"]

#: name of the file that a quantized model's folder keeps it in
FILE_NAME = "sensitivity.json"
FORMAT, VERSION = "kbit-sensitivity", 1
MAX_BYTES = 64 << 20

Method = Literal["measured", "predicted"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What one weight loses under one scheme.

    Attributes:
        kl: KL divergence of the model from the original with this weight alone encoded, nats a token.
        error: ‖(W − Ŵ) Xᵀ‖² / ‖W Xᵀ‖² under the calibration inputs X; of the weights themselves where there are no inputs.
    """

    kl: float
    error: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Losses by weight and scheme.

    Attributes:
        losses: module name → scheme → loss.
        method: how they were found.
        tokens: that the KL divergence was taken over.
    """

    losses: Mapping[str, Mapping[Scheme, Loss]]
    method: Method
    tokens: int

    def of(self, unit: "Unit") -> list[float]:
        """KL of a free unit for each of its schemes; 0 for leaving it as it is.

        Raises:
            SchemeError: a unit or scheme that was not tried.
        """
        return [self._kl(unit.name, scheme) for scheme in unit.schemes]

    def predict(self, chosen: Mapping[str, Scheme]) -> float:
        """KL of a model with these weights encoded."""
        return sum(self._kl(name, scheme) for name, scheme in chosen.items())

    def _kl(self, name: str, scheme: Scheme) -> float:
        if scheme.is_none:
            return 0.0
        try:
            return self.losses[name][scheme].kl
        except KeyError:
            raise SchemeError(f"expected a sensitivity of {name} under {scheme.text}, which was not tried") from None

    def to_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        units = {name: {scheme.text: [loss.kl, loss.error] for scheme, loss in found.items()} for name, found in self.losses.items()}
        return {"format": FORMAT, "version": VERSION, "method": self.method, "tokens": self.tokens, "losses": units}

    @classmethod
    def from_json(cls, value: Any, source: str) -> Self:
        """The table that a JSON object states.

        Raises:
            FormatError: it states none; names `source`.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            raise FormatError(f"{source}: expected an object of format {FORMAT!r}, version {VERSION}")
        method, tokens, losses = value.get("method"), value.get("tokens"), value.get("losses")
        if method not in get_args(Method) or not isinstance(tokens, int) or isinstance(tokens, bool) or not isinstance(losses, dict):
            raise FormatError(f"{source}: expected 'method' of {', '.join(get_args(Method))}, a number of 'tokens', and 'losses'")
        found = {str(name): _losses(options, f"{source}: losses of {str(name)[:100]!r}") for name, options in losses.items()}
        return cls(found, cast("Method", method), tokens)

    def write(self, path: Path) -> None:
        """Keep it in a file, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file (`FormatError`, `LimitError`, `StorageError` where that fails)."""
        return cls.from_json(read_json(path, max_bytes=MAX_BYTES), str(path))


def _losses(options: Any, where: str) -> dict[Scheme, Loss]:
    if not isinstance(options, dict):
        raise FormatError(f"{where}: expected an object of schemes, got {type(options).__name__}")
    found = {}
    for text, pair in options.items():
        found[Scheme.parse(text)] = Loss(*_pair(pair, f"{where}: {text[:60]}"))
    return found


def _pair(value: Any, where: str) -> Sequence[float]:
    fits = isinstance(value, list) and len(value) == 2
    if not fits or any(isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) for one in value):
        raise FormatError(f"{where}: expected two finite numbers, KL and error, got {str(value)[:60]}")
    return cast("Sequence[float]", value)
