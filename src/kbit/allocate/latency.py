"""Time of each weight's product with one token under each scheme, measured on this machine, and a time a token as a budget.

A decode step reads every weight once, so its time is the sum of its products and of a rest that schemes do not change (norms, attention,
and 16-bit weights). Products are measured by the kernels on copies that are walked round and round, as in a step whose weights
no cache holds (`kbit.kernels.measure`); the rest is what a whole model, encoded plainly, takes beyond its products.
"""

import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from kbit import native
from kbit.allocate.sensitivity import Sensitivity
from kbit.allocate.solve import Allocation, allocate
from kbit.allocate.units import Unit, plan_of
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.progress import Progress
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.evaluate.speed import bench_folder
from kbit.kernels.measure import Streamed
from kbit.kernels.select import choose
from kbit.model.quantize import quantize_folder
from kbit.model.recipe import make_recipe
from kbit.store.folder import open_model
from kbit.tensor.blocks import TILE_ROWS, logical_shape
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["StepTimes", "filled", "for_time", "measure_times", "predicted_ms"]

#: streamed copies of a matrix, in bytes: beyond what caches hold
_STREAM_BYTES = 256 << 20
_ROUNDS = 5
_DECODE_TOKENS = 32
Key = tuple[tuple[int, int], str]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where the time of a decode step goes.

    Attributes:
        products: unit → nanoseconds for each of its schemes; 0 for an embedding, of which a step reads a row, unless it is the head too.
        rest: nanoseconds that no scheme changes.
    """

    products: Mapping[str, Sequence[int]]
    rest: int


def measure_times(
    source: Path, units: Sequence[Unit], base: Plan, free: Collection[str], *, threads: int = 0, progress: bool | None = None
) -> StepTimes:
    """Measure products and rest on this machine, with all other work on it as it is.

    Raises:
        SchemeError: a unit that may stay in 16 bits, whose time is not that of a packed matrix, or a stack of experts.
    """
    for unit in units:
        if any(scheme.is_none for scheme in unit.schemes):
            raise SchemeError(f"{unit.name}: a target of time takes packed schemes only, got '16' among its candidates")
        if unit.kind == "experts":
            raise SchemeError(f"{unit.name}: a target of time is for models whose step reads every weight; experts are read by turns")
    used = native.threads() if threads == 0 else threads
    with open_model(source) as stored:
        shared = set(make_recipe(stored, base).ties.values())
    read_whole = {unit.name for unit in units if unit.kind != "embedding" or unit.name in shared}
    wanted = sorted({(_matrix(unit), _timed(scheme)) for unit in units if unit.name in read_whole for scheme in unit.schemes})
    found: dict[Key, int] = {}
    with Progress(len(wanted), "products", "latency", enabled=progress) as line:
        for shape, text in wanted:
            found[shape, text] = _product(shape, Scheme.parse(text), used)
            line.advance(1, text)
    products = {
        unit.name: [found[_matrix(unit), _timed(scheme)] if unit.name in read_whole else 0 for scheme in unit.schemes] for unit in units
    }
    return StepTimes(products, _rest(source, units, products, base, free, threads))


def for_time(
    units: Sequence[Unit], sensitivity: Sensitivity, times: StepTimes, target_ms: float, *, base: Plan, free: Collection[str]
) -> Allocation:
    """The best plan whose decode step takes at most so many milliseconds by `times`.

    Raises:
        SchemeError: no plan is that fast; the message says how fast one can be.
    """
    budget = int(target_ms * 1e6) - times.rest
    least = sum(min(times.products[unit.name]) for unit in units)
    if least > budget:
        raise SchemeError(f"expected a target of at least {(least + times.rest) / 1e6:.3f} ms a token on this machine, got {target_ms}")
    return allocate(units, sensitivity, budget, base=base, free=free, costs=times.products)


def predicted_ms(units: Sequence[Unit], times: StepTimes, chosen: Mapping[str, Scheme]) -> float:
    """Time of a decode step under a choice."""
    picked = sum(times.products[unit.name][unit.schemes.index(chosen.get(unit.name, unit.schemes[0]))] for unit in units)
    return (picked + times.rest) / 1e6


def _matrix(unit: Unit) -> tuple[int, int]:
    _, rows, cols = logical_shape(unit.shape)
    return rows, cols


def _timed(scheme: Scheme) -> str:
    return _simple(scheme).text


def _product(shape: tuple[int, int], scheme: Scheme, threads: int) -> int:
    streamed = Streamed(filled(scheme, shape), _STREAM_BYTES)
    variant = choose(streamed.kind, "one", native.isa())
    return math.ceil(median(streamed.seconds(variant, 1, threads) for _ in range(_ROUNDS)) * 1e9)


def filled(scheme: Scheme, shape: tuple[int, int]) -> QuantizedTensor:
    """A matrix of Gaussian weights for a timer, its rows rounded up to whole tiles: one tile is encoded, and its bytes fill the rest."""
    rows, cols = -(-shape[0] // TILE_ROWS) * TILE_ROWS, shape[1]
    tile = encode(np.random.default_rng(0).standard_normal((TILE_ROWS, cols), np.float32), scheme)
    small = tile.parts()
    parts = {name: np.resize(small[name], size) for name, (size, _) in part_shapes(tile.scheme, (rows, cols)).items()}
    return QuantizedTensor.from_parts(tile.scheme, (rows, cols), parts)


def _rest(
    source: Path, units: Sequence[Unit], products: Mapping[str, Sequence[int]], base: Plan, free: Collection[str], threads: int
) -> int:
    """What a step of the model, each weight under a scheme that is quick to encode, takes beyond its products."""
    quick = {unit.name: min(range(len(unit.schemes)), key=lambda at: (_slow(unit.schemes[at]), unit.sizes[at])) for unit in units}
    plan = _plain(plan_of(units, {unit.name: unit.schemes[quick[unit.name]] for unit in units}, base, free))
    with tempfile.TemporaryDirectory(prefix="kbit-latency-") as work:
        folder = Path(work) / "model"
        quantize_folder(source, folder, plan, threads=threads, progress=False)
        speed = bench_folder(folder, threads=threads, prompt_tokens=8, decode_tokens=_DECODE_TOKENS)
    step = 1e9 / speed.decode_tokens_per_s
    return max(0, round(step - sum(products[unit.name][quick[unit.name]] for unit in units)))


def _slow(scheme: Scheme) -> bool:
    return scheme.grid == "trellis" or scheme.dims > 1


def _plain(plan: Plan) -> Plan:
    """The plan with the nearest codes everywhere."""
    rules = tuple((pattern, _simple(scheme)) for pattern, scheme in plan.rules)
    return replace(plan, default=_simple(plan.default), embedding=_simple(plan.embedding), head=_simple(plan.head), rules=rules)


def _simple(scheme: Scheme) -> Scheme:
    """What the time of a product depends on: everything but how codes were chosen."""
    return scheme if scheme.is_none else replace(scheme, methods=(), scale_search="absmax")
