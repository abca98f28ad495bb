"""Recipes by name: what is done at a size for how much time.

    fast    the nearest levels with searched scales, one scheme for all; no calibration
    good    one scheme for all, with the methods that look at inputs
    best    a scheme for each weight, by its sensitivity, with the same methods

Without a calibration text the embedded excerpts of eight books stand in: enough to tell sensitive weights from others, and to weigh inputs,
but English prose of one time; a text like that which the model will see is better.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

from kbit.allocate.search import SCORED_WINDOWS, SEEN_WINDOWS
from kbit.allocate.sensitivity import Method
from kbit.allocate.units import Unit, stored_bytes
from kbit.core.errors import SchemeError
from kbit.core.scheme import Plan, Scheme
from kbit.encoders.nearest import encode
from kbit.tensor.blocks import logical_shape

__all__ = ["QUALITIES", "Estimate", "Quality", "books", "choose_method", "estimate", "uniform"]

Quality = Literal["fast", "good", "best"]
QUALITIES: tuple[Quality, ...] = ("fast", "good", "best")

#: beyond this many seconds of measuring, losses are predicted
MEASURED_SECONDS = 1800.0


def books() -> list[Path]:
    """The embedded text: excerpts of eight public-domain books."""
    folder = Path(str(files("kbit").joinpath("data", "books")))
    return sorted(folder.glob("*.txt"))


def uniform(units: Sequence[Unit], schemes: Sequence[Scheme], base: Plan, fits: Callable[[Plan], bool]) -> Plan:
    """The plan with the largest of `schemes` as its default that `fits`.

    Raises:
        SchemeError: none does; the message says how many bits a weight the smallest takes.
    """
    sizes = {scheme: sum(stored_bytes(scheme.for_row(unit.shape[-1]), unit.shape) for unit in units if unit.free) for scheme in schemes}
    for scheme in sorted(schemes, key=lambda one: -sizes[one]):
        if fits(base.with_default(scheme)):
            return base.with_default(scheme)
    weights = sum(unit.weights for unit in units if unit.free)
    raise SchemeError(f"expected room for one scheme for all weights, at least {8 * min(sizes.values()) / weights:.3f} bits each")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that each part of a recipe will take on this machine, by the rates of two short trials.

    Attributes:
        sensitivity: finding the losses.
        encoding: running the calibration text and encoding all weights.
        method: how losses would be found.
    """

    sensitivity: float
    encoding: float
    method: Method


def choose_method(seconds: float) -> Method:
    """Losses are measured where that takes so many seconds at most, else predicted."""
    return "measured" if seconds <= MEASURED_SECONDS else "predicted"


def estimate(
    units: Sequence[Unit], tokens: int, context: int, *, quality: Quality, parameters: int, method: Method | None = None
) -> Estimate:
    """What a recipe will take: multiply-adds of runs and Hessians over this machine's rate, and weights over its encoder's.

    Args:
        units: weights of the model.
        tokens: of the calibration text.
        context: tokens a window of it.
        quality: of `QUALITIES`.
        parameters: of the whole model.
        method: how losses are to be found; None for whatever `choose_method` says.
    """
    weights = sum(unit.weights for unit in units)
    per_encoding = weights / _encoder_rate()
    if quality == "fast":
        return Estimate(0.0, per_encoding, "measured")
    macs = _macs_rate()
    hessians = sum(_hessian_macs(unit) for unit in units)
    compensation = sum(_compensation_macs(unit) for unit in units) / macs
    a_token = (2 * parameters + hessians) / macs
    encoding = tokens * a_token + compensation + per_encoding
    if quality == "good":
        return Estimate(0.0, encoding, "measured")
    tries = sum(len(unit.schemes) for unit in units if unit.free)
    candidates = tries / max(1, len(units))
    half_run = {way: min(tokens, count * context) * parameters / 2 / macs for way, count in SCORED_WINDOWS.items()}
    seen = {way: min(tokens, count * context) * a_token for way, count in SEEN_WINDOWS.items()}
    measured = seen["measured"] + candidates * (compensation + per_encoding) + tries * half_run["measured"]
    if (method or choose_method(measured)) == "measured":
        return Estimate(measured, encoding, "measured")
    predicted = seen["predicted"] + len(units) * half_run["predicted"] + candidates * per_encoding + compensation / 4
    return Estimate(predicted, encoding, "predicted")


def _hessian_macs(unit: Unit) -> int:
    """Multiply-adds of XᵀX for a token."""
    return int(unit.shape[-1]) ** 2


def _compensation_macs(unit: Unit) -> int:
    matrices, rows, cols = logical_shape(unit.shape)
    return matrices * (rows * cols**2 + cols**3)


def _macs_rate() -> float:
    """Multiply-adds of float32 a second, by a trial of torch."""
    import torch

    one = torch.ones(768, 768)
    one @ one
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        one @ one
        done += 1
    return done * 768**3 / (time.perf_counter() - started)


def _encoder_rate() -> float:
    """Weights a second with searched scales, by a trial."""
    weights = np.random.default_rng(0).standard_normal((128, 1024), np.float32)
    scheme = Scheme.parse("nf4:g128:mse")
    encode(weights[:16], scheme)
    started = time.perf_counter()
    encode(weights, scheme)
    return weights.size / (time.perf_counter() - started)
