"""`decide`: what a user asked for (a quality, and a size or a time) → the plan, with what it was chosen by."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kbit.allocate.budget import file_bytes, for_bpw, for_size
from kbit.allocate.estimate import Estimate, Rates, encoding_seconds, estimate
from kbit.allocate.ladder import Goal, candidates
from kbit.allocate.latency import StepTimes, for_time, measure_times, predicted_ms
from kbit.allocate.recipes import QUALITIES, Quality, books, uniform
from kbit.allocate.search import find_sensitivity
from kbit.allocate.sensitivity import Method, Sensitivity
from kbit.allocate.solve import Allocation, bytes_for_bpw
from kbit.allocate.units import Unit, find_units, stored_bytes
from kbit.calibrate import CalibrationText, CalibrationWindows, GeneratedText
from kbit.calibrate.arithmetic import ArithmeticChoice, arithmetic_for
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.registry import suggest
from kbit.core.scheme import KEEP, Scheme
from kbit.model.calibrated import as_windows
from kbit.store.folder import StoredModel, open_model
from kbit.store.model_writer import DEFAULT_SHARD_BYTES

__all__ = ["BASE", "DEFAULT_BPW", "Decision", "Request", "decide"]

#: bits a weight where a quality is named and no target
DEFAULT_BPW = 4.25
#: a plan of which nothing but what is bound counts: its default stands for what is free
BASE = Plan(Scheme("int", 4))


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted; at most one of the targets.

    Attributes:
        quality: of `QUALITIES`.
        bpw: most bits a weight, over encoded weights.
        size_bytes: most bytes of the weight files.
        step_ms: most milliseconds of a decode step on this machine.
        embedding, head: their schemes; None lets them share in the budget.
        rules, skip: as in a `Plan`.
        calibration: text that methods run.
        arithmetic: in which they run it (`kbit.calibrate.arithmetic`); an estimate depends on it, and no plan.
        method: how losses are found; None measures them where that is quick.
        journal: file that keeps losses as they are found.
        max_shard_bytes: bytes of tensors a file holds.
        threads: of encoder and kernels.
        progress: lines on stderr.
    """

    journal: Path
    quality: Quality = "best"
    bpw: float | None = None
    size_bytes: int | None = None
    step_ms: float | None = None
    embedding: Scheme | None = KEEP
    head: Scheme | None = KEEP
    rules: tuple[tuple[str, Scheme], ...] = ()
    skip: tuple[str, ...] = ()
    calibration: CalibrationText | GeneratedText | None = None
    arithmetic: ArithmeticChoice = "auto"
    method: Method | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    threads: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise SchemeError(f"unknown quality {self.quality!r}: {suggest(self.quality, QUALITIES)}")
        if sum(target is not None for target in (self.bpw, self.size_bytes, self.step_ms)) > 1:
            raise SchemeError("expected one target: bits a weight, a size, or a time")
        if self.quality == "good" and self.calibration is None:
            raise SchemeError("quality 'good' weighs inputs: expected a calibration text (--calibration FILE), got none")
        if self.quality != "best" and self.step_ms is not None:
            raise SchemeError(f"a target of time shares bits out by sensitivity: expected quality 'best' with it, got {self.quality!r}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Attributes:
        plan: the plan.
        calibration: what it needs to be carried out.
        expected: seconds of each part that were foreseen.
        allocation: what was chosen for each weight, where bits were shared out.
        sensitivity: by which losses.
        step_ms: time of a decode step that was foreseen, with a target of time.
    """

    plan: Plan
    calibration: CalibrationWindows | None
    expected: Estimate
    allocation: Allocation | None = None
    sensitivity: Sensitivity | None = None
    step_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        found = {} if self.allocation is None else self.allocation.to_json()
        method = None if self.sensitivity is None else self.sensitivity.method
        return {"plan": self.plan.to_json(), "sensitivity": method, "step_ms": self.step_ms, **found}


def decide(source: Path, request: Request) -> Decision:
    """The plan for what is asked.

    Raises:
        SchemeError: nothing is that small or that fast; the message says what can be had.
        ModelError: a model whose losses cannot be found, or a checkpoint that cannot be encoded.
        StorageError, FormatError, ShapeError: a text or tokenizer that is not what it should be.
        ResumeMismatch: the journal is of other work.
    """
    free = [name for name, scheme in (("default", None), ("embedding", request.embedding), ("head", request.head)) if scheme is None]
    base = Plan(BASE.default, request.embedding or KEEP, request.head or KEEP, request.rules, request.skip)
    calibrated = request.calibration is not None and request.quality != "fast"
    keep = request.size_bytes is not None
    with open_model(source) as stored:
        goal: Goal = "one" if request.quality != "best" else "size" if request.step_ms is None else "time"
        listed = partial(candidates, calibrated=calibrated, goal=goal)
        units = find_units(stored, base, free, lambda kind: listed(kind, keep=keep and kind in ("embedding", "head")))
        windows = as_windows(request.calibration, stored, base) if calibrated else None
        scored = windows if windows is not None or request.quality != "best" else _embedded(stored, base)
        clock = _Clock(units, scored, request)
        expected = clock.before()
        if request.quality != "best":
            return _uniform(stored, units, base, free, windows, request, expected)
        assert scored is not None, "best has a text always"
        method = request.method or expected.method
        options = {"method": method, "journal": request.journal, "threads": request.threads, "progress": request.progress}
        sensitivity = find_sensitivity(stored, units, scored, **options)  # type: ignore[arg-type]
        allocation, step_ms = _allocate(stored, units, sensitivity, base, free, windows, request)
        expected = replace(expected, encoding=clock.after(allocation))
        return Decision(allocation.plan, windows, expected, allocation, sensitivity, step_ms)


def _embedded(stored: StoredModel, base: Plan) -> CalibrationWindows:
    return as_windows(CalibrationText(tuple(books())), stored, base)


class _Clock:
    """Says how long the parts of a recipe will take."""

    def __init__(self, units: list[Unit], windows: CalibrationWindows | None, request: Request) -> None:
        self._units, self._request = units, request
        self._rates = Rates.measure(arithmetic_for(request.arithmetic, {unit.name: unit.shape for unit in units}))
        self._tokens = 0 if windows is None else windows.tokens
        self._context = 1 if windows is None else int(windows.ids.shape[1])
        self._parameters = sum(unit.weights for unit in units)

    def before(self) -> Estimate:
        """What is known before bits are shared out."""
        quality = self._request.quality
        expected = estimate(
            self._units,
            self._tokens,
            self._context,
            share=quality == "best",
            parameters=self._parameters,
            method=self._request.method,
            rates=self._rates,
        )
        found = f"sensitivity {_minutes(expected.sensitivity)} ({expected.method}), " if expected.sensitivity else ""
        most = "" if quality == "fast" else "at most "
        self._tell(f"estimate for quality {quality}: {found}encoding {most}{_minutes(expected.encoding)}")
        return expected

    def after(self, allocation: Allocation) -> float:
        """Seconds of encoding by what was chosen."""
        chosen = {unit.name: allocation.chosen.get(unit.name, unit.schemes[0]) for unit in self._units}
        seconds = encoding_seconds(self._units, chosen, self._tokens, self._parameters, self._rates)
        self._tell(f"estimate for this plan: encoding {_minutes(seconds)}")
        return seconds

    def _tell(self, line: str) -> None:
        if self._request.progress is not False and sys.stderr is not None:
            print(f"quantize: {line}", file=sys.stderr)


def _minutes(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _uniform(
    stored: StoredModel,
    units: list[Unit],
    base: Plan,
    free: list[str],
    windows: CalibrationWindows | None,
    request: Request,
    expected: Estimate,
) -> Decision:
    if free != ["default"]:
        raise SchemeError(
            f"quality {request.quality!r} has one scheme for all linear weights: expected schemes for embedding and head, got 'auto'"
        )
    budget = bytes_for_bpw(units, DEFAULT_BPW if request.bpw is None else request.bpw)
    fixed = sum(unit.sizes[0] for unit in units if not unit.free)

    def fits(plan: Plan) -> bool:
        if request.size_bytes is not None:
            return file_bytes(stored, plan, windows, request.max_shard_bytes) <= request.size_bytes
        return fixed + sum(stored_bytes(plan.default.for_row(unit.shape[-1]), unit.shape) for unit in units if unit.free) <= budget

    schemes = candidates("linear", calibrated=windows is not None, goal="one")
    return Decision(uniform(units, schemes, base, fits), windows, expected)


def _allocate(
    stored: StoredModel,
    units: list[Unit],
    sensitivity: Sensitivity,
    base: Plan,
    free: list[str],
    windows: CalibrationWindows | None,
    request: Request,
) -> tuple[Allocation, float | None]:
    if request.size_bytes is not None:
        found = for_size(
            stored, units, sensitivity, request.size_bytes, base=base, free=free, windows=windows, max_shard_bytes=request.max_shard_bytes
        )
        return found, None
    if request.step_ms is not None:
        times: StepTimes = measure_times(stored.path, units, base, free, threads=request.threads, progress=request.progress)
        found = for_time(units, sensitivity, times, request.step_ms, base=base, free=free)
        return found, predicted_ms(units, times, found.chosen)
    return for_bpw(units, sensitivity, DEFAULT_BPW if request.bpw is None else request.bpw, base=base, free=free), None
