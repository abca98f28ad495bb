"""Seconds that a recipe will take on this machine, by a few trials of a tenth of a second each."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kbit.allocate.derived import partner
from kbit.allocate.search import PROBE, SAMPLED_ROWS, SCORED_WINDOWS, SEEN_WINDOWS
from kbit.allocate.sensitivity import Method
from kbit.allocate.units import Unit
from kbit.calibrate.arithmetic import Arithmetic
from kbit.core.methods import needs_inputs
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import encode
from kbit.tensor.blocks import logical_shape

__all__ = ["Estimate", "Rates", "choose_method", "encoding_seconds", "estimate"]

#: beyond this many seconds of measuring, losses are predicted
MEASURED_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that each part of a recipe will take.

    Attributes:
        sensitivity: finding the losses; 0 where there is nothing to share out.
        encoding: running the calibration text and encoding all weights, each by the slowest of the schemes that it may get.
        method: how losses would be found.
    """

    sensitivity: float
    encoding: float
    method: Method


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine does in a second.

    Attributes:
        macs: multiply-adds of float32.
        run: multiply-adds of a layer that runs a calibration text in its arithmetic, what lies between its products included.
        run_float32: the same in float32, as losses are found.
        nearest: weights by the nearest levels, with searched scales.
        path: weights by a trellis.
        compensated, compensated_path: the same with GPTQ, of matrices with many rows.
    """

    macs: float
    run: float
    run_float32: float
    nearest: float
    path: float
    compensated: float
    compensated_path: float

    @classmethod
    def measure(cls, arithmetic: Arithmetic = "float32") -> Self:
        """By trials, of a calibration in `arithmetic`."""
        import torch

        one = torch.ones(768, 768)
        weights, alike = np.random.default_rng(0).standard_normal((2048, 128), np.float32), (np.eye(128, dtype=np.float32) + 1) / 2
        nearest, path = Scheme.parse("nf4:g128:mse"), Scheme.parse("trellis3:g128")
        levels, compensated = Scheme.parse("kmeans4:g128+gptq"), Scheme.parse("trellis3:g128+gptq")
        run = _run_rate(arithmetic)
        return cls(
            _rate(lambda: one @ one, 768**3),
            run,
            run if arithmetic == "float32" else _run_rate("float32"),
            _rate(lambda: encode(weights, nearest), weights.size),
            _rate(lambda: encode(weights, path), weights.size),
            _rate(lambda: encode_gptq(weights, levels, alike), weights.size),
            _rate(lambda: encode_gptq(weights, compensated, alike), weights.size),
        )

    def seconds(self, unit: Unit, scheme: Scheme, rows: int | None = None) -> float:
        """Encoding a unit, or `rows` of each of its matrices by the nearest levels or path."""
        if scheme.is_none:
            return 0.0
        matrices, all_rows, cols = logical_shape(unit.shape)
        count = matrices * cols * (all_rows if rows is None else min(rows, all_rows))
        if "gptq" not in scheme.methods or rows is not None:
            return count / (self.path if scheme.grid == "trellis" else self.nearest)
        rate = self.compensated_path if scheme.grid == "trellis" else self.compensated
        return count / rate + matrices * (all_rows * cols**2 + cols**3) / self.macs


def choose_method(seconds: float) -> Method:
    """Losses are measured where that takes so many seconds at most, else predicted."""
    return "measured" if seconds <= MEASURED_SECONDS else "predicted"


def estimate(
    units: Sequence[Unit],
    tokens: int,
    context: int,
    *,
    share: bool,
    parameters: int,
    method: Method | None = None,
    rates: Rates | None = None,
) -> Estimate:
    """What a recipe will take: multiply-adds of runs and Hessians, and weights, over this machine's rates.

    Args:
        units: weights of the model, with the schemes that the recipe chooses from.
        tokens: of the calibration text.
        context: tokens a window of it.
        share: bits are shared out by losses.
        parameters: of the whole model.
        method: how losses are to be found; None for whatever `choose_method` says.
        rates: of the machine, if they are known.
    """
    rates = rates or Rates.measure()
    slowest = {unit.name: max(unit.schemes, key=lambda scheme: rates.seconds(unit, scheme)) for unit in units}
    encoding = encoding_seconds(units, slowest, tokens, parameters, rates)
    if not share:
        return Estimate(0.0, encoding, "measured")
    tries = [(unit, scheme) for unit in units if unit.free for scheme in _tried(unit)]
    half_run = {way: min(tokens, count * context) * parameters / 2 / rates.run_float32 for way, count in SCORED_WINDOWS.items()}
    seen = {way: min(tokens, count * context) * _a_token(units, parameters) / rates.run_float32 for way, count in SEEN_WINDOWS.items()}
    measured = seen["measured"] + len(tries) * half_run["measured"] + sum(rates.seconds(unit, scheme) for unit, scheme in tries)
    if (method or choose_method(measured)) == "measured":
        return Estimate(measured, encoding, "measured")
    sampled = sum(rates.seconds(unit, scheme, SAMPLED_ROWS) + _error_macs(unit, SAMPLED_ROWS) / rates.macs for unit, scheme in tries)
    probed = sum(rates.seconds(unit, PROBE) + 2 * _error_macs(unit) / rates.macs for unit in units)
    gains = _gains([unit for unit in units if unit.free], rates)
    return Estimate(seen["predicted"] + len(units) * half_run["predicted"] + sampled + probed + gains, encoding, "predicted")


def encoding_seconds(units: Sequence[Unit], chosen: Mapping[str, Scheme], tokens: int, parameters: int, rates: Rates) -> float:
    """Seconds of encoding each unit by its scheme, and of running the calibration text where one of them asks for it."""
    runs = any(needs_inputs(scheme.methods) for scheme in chosen.values())
    seconds = tokens * _a_token(units, parameters) / rates.run if runs else 0.0
    return seconds + sum(rates.seconds(unit, chosen[unit.name]) for unit in units)


def _tried(unit: Unit) -> list[Scheme]:
    """Schemes whose loss has to be found for this unit alone."""
    return [scheme for scheme in unit.schemes if not scheme.is_none and partner(scheme, unit.schemes) is None]


def _gains(units: Sequence[Unit], rates: Rates) -> float:
    """Seconds for what methods gain: each on the first weight, with and without, and every weight's factor in float64."""
    compensated = [(unit, scheme) for unit in units for scheme in unit.schemes if "gptq" in scheme.methods]
    if not compensated:
        return 0.0
    first = compensated[0][0].name
    tried = sum(rates.seconds(u, s) + rates.seconds(u, replace(s, methods=())) for u, s in compensated if u.name == first)
    cubes = {unit.name: matrices * cols**3 for unit, _ in compensated for matrices, _, cols in [logical_shape(unit.shape)]}
    return tried + 2 * sum(cubes.values()) / rates.macs


def _a_token(units: Sequence[Unit], parameters: int) -> int:
    """Multiply-adds of two runs and of half of XᵀX for a token."""
    return 2 * parameters + sum(int(unit.shape[-1]) ** 2 for unit in units) // 2


def _error_macs(unit: Unit, most_rows: int | None = None) -> int:
    """Multiply-adds of ΔW H, for so many rows of a matrix at most."""
    matrices, rows, cols = logical_shape(unit.shape)
    return int(matrices * (rows if most_rows is None else min(rows, most_rows)) * cols**2)


def _run_rate(arithmetic: Arithmetic) -> float:
    """Multiply-adds a second of a block like those of transformers: a norm, a gated pair of products, a product back, a sum."""
    import torch

    width, tokens = 1024, 1024
    draw = torch.Generator().manual_seed(0)
    matrix, states = torch.randn(width, width, generator=draw) / width**0.5, torch.randn(tokens, width, generator=draw)

    def block() -> None:
        inputs = torch.nn.functional.rms_norm(states, (width,))
        gated = torch.nn.functional.silu(inputs @ matrix) * (inputs @ matrix)
        states + gated @ matrix

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "bfloat16"):
        return _rate(block, 3 * tokens * width**2)


def _rate(work: Callable[[], object], amount: int) -> float:
    """How much of it a second."""
    started, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - started < 0.1:
        work()
        done += 1
    return done * amount / (time.perf_counter() - started)
