"""`find_sensitivity`: the loss of each weight under each scheme, measured or predicted, kept in a journal as it is found.

    measured    every candidate is encoded as it would be, and the rest of the model runs on a few windows with it in place
    predicted   the loss of one encoding is measured; those of candidates are in proportion to their error under the second moments H of the
                inputs, tr(ΔW H ΔWᵀ), on some rows of the weight. The rows are encoded without compensation (its work is cubic in the
                width); what the methods gain is taken from one weight of the model that is encoded both ways, and what GPTQ gains more or
                less on others from how much their inputs have in common

The first costs (weights × schemes) runs of half the model, the second one run for each weight. Either way the losses of trellis
codes are found for one group size, and derived for others (`kbit.allocate.derived`). A text that never reached a weight (an
expert that no token was routed to) says nothing about it: it is taken to be as sensitive as the median weight.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.allocate.derived import Derived, ordered, partner
from kbit.allocate.divergence import Meter
from kbit.allocate.encodings import Seen, observe_units
from kbit.allocate.sensitivity import Loss, Method, Sensitivity
from kbit.allocate.units import Unit
from kbit.calibrate.text import CalibrationWindows
from kbit.calibrate.walk import LayerWalk
from kbit.core.digest import digest_json
from kbit.core.installation import package_version
from kbit.core.progress import Progress
from kbit.core.scheme import Scheme
from kbit.encoders.hessian import damped_factor
from kbit.encoders.nearest import encode
from kbit.model.load import load_ordinary
from kbit.model.quantize import source_digest
from kbit.store.folder import StoredModel
from kbit.store.journal import Journal

__all__ = ["SCORED_WINDOWS", "SEEN_WINDOWS", "fill_unreached", "find_sensitivity"]

#: windows that the divergence is taken over
SCORED_WINDOWS: dict[Method, int] = {"measured": 4, "predicted": 2}
#: windows whose inputs are gathered, at most
SEEN_WINDOWS: dict[Method, int] = {"measured": 64, "predicted": 32}
#: rows of a matrix that stand for all in a prediction
SAMPLED_ROWS = 512
#: what is measured for a prediction: lossy enough to be seen, not so lossy that it is no small error, and quickly encoded
PROBE = Scheme.parse("nf3:g64")

Try = Callable[[Seen, Scheme], Loss]


def find_sensitivity(
    stored: StoredModel,
    units: Sequence[Unit],
    windows: CalibrationWindows,
    *,
    method: Method,
    journal: Path,
    threads: int = 0,
    progress: bool | None = None,
) -> Sensitivity:
    """Losses of all free units under all their schemes.

    Args:
        stored: the checkpoint, a causal language model of transformers with one list of layers.
        units: its weights.
        windows: calibration tokens; a few of them are scored.
        method: ``measured`` or ``predicted``.
        journal: file in which losses are kept as they are found; one of another model, text, method or version is refused.
        threads: threads of the encoder.
        progress: a line on stderr.

    Raises:
        ModelError: a model that cannot be walked through or answers without logits.
        ResumeMismatch: the journal is of other work.
        NumericsError: NaN or Inf among weights, inputs or the original's logits.
    """
    free = [unit for unit in units if unit.free]
    binding = {
        "source": source_digest(stored),
        "tokens": windows.digest,
        "method": method,
        "kbit": package_version(),
        "sampling": _SAMPLING,
    }
    with Journal(journal, binding) as record:
        losses: dict[str, dict[Scheme, Loss]] = {unit.name: {} for unit in free}
        wanted = {unit.name: ordered([scheme for scheme in unit.schemes if not scheme.is_none]) for unit in free}
        finder = _Finder(losses, wanted)
        for line in record.records:
            if line["unit"] in losses:
                finder.keep(line["unit"], Scheme.parse(line["scheme"]), Loss(line["kl"], line["error"]))
        missing = sum(scheme not in losses[name] for name, schemes in wanted.items() for scheme in schemes)
        tokens = min(SCORED_WINDOWS[method], len(windows.ids)) * windows.ids.shape[1]
        if missing:
            with Progress(missing, "encodings", "sensitivity", enabled=progress) as line_of_progress:
                for seen, schemes, try_one in _work(stored, free, wanted, losses, windows, method, threads):
                    for scheme in schemes:
                        if scheme in losses[seen.unit.name]:
                            continue
                        loss = finder.find(seen, scheme, try_one)
                        record.append({"unit": seen.unit.name, "scheme": scheme.text, "kl": loss.kl, "error": loss.error})
                        line_of_progress.advance(1, seen.unit.name)
    found = {name: {scheme: losses[name][scheme] for scheme in schemes} for name, schemes in wanted.items()}
    return Sensitivity(fill_unreached(found), method, tokens)


def fill_unreached(losses: dict[str, dict[Scheme, Loss]]) -> dict[str, dict[Scheme, Loss]]:
    """The table with the median loss for an error where a weight was lossless under every scheme, which says that it was never reached."""
    ratios = [loss.kl / loss.error for found in losses.values() for loss in found.values() if loss.kl > 0 and loss.error > 0]
    if not ratios:
        return losses
    usual = float(np.median(ratios))
    return {
        name: found
        if any(loss.kl > 0 for loss in found.values())
        else {s: Loss(usual * loss.error, loss.error) for s, loss in found.items()}
        for name, found in losses.items()
    }


_SAMPLING = digest_json([list(SCORED_WINDOWS.items()), list(SEEN_WINDOWS.items()), SAMPLED_ROWS, PROBE.text])


def _work(
    stored: StoredModel,
    units: Sequence[Unit],
    wanted: dict[str, list[Scheme]],
    losses: dict[str, dict[Scheme, Loss]],
    windows: CalibrationWindows,
    method: Method,
    threads: int,
) -> Iterator[tuple[Seen, list[Scheme], Try]]:
    """Units that have something left to try, and what tries it."""
    model = load_ordinary(stored.path, dtype=torch.float32).eval()
    with ExitStack() as stack:
        walk = stack.enter_context(LayerWalk(model, torch.from_numpy(windows.ids[: SEEN_WINDOWS[method]])))
        walk.start()
        meter = stack.enter_context(Meter(model, windows.ids[: SCORED_WINDOWS[method]]))
        predictor = _Predictor(meter, threads)
        for layer, found in observe_units(model, units, walk):
            pending = [seen for seen in found if any(scheme not in losses[seen.unit.name] for scheme in wanted[seen.unit.name])]
            if pending:
                meter.advance(layer)
            for seen in pending:
                yield seen, wanted[seen.unit.name], predictor if method == "predicted" else _Measurer(meter, threads)


class _Finder:
    """Finds losses one after another, and derives what follows from those before; the table of losses grows with it."""

    def __init__(self, losses: dict[str, dict[Scheme, Loss]], wanted: dict[str, list[Scheme]]) -> None:
        self._losses, self._wanted, self._derived = losses, wanted, Derived()

    def find(self, seen: Seen, scheme: Scheme, try_one: Try) -> Loss:
        """Loss of a weight under one of its schemes, whose partner's is known."""
        name = seen.unit.name
        other = partner(scheme, self._wanted[name])
        loss = None if other is None else self._derived.loss(scheme, other, self._losses[name])
        return self.keep(name, scheme, try_one(seen, scheme) if loss is None else loss)

    def keep(self, name: str, scheme: Scheme, loss: Loss) -> Loss:
        """Take a loss into the table, in the order in which losses were found."""
        losses = self._losses[name]
        losses[scheme] = loss
        other = partner(scheme, self._wanted[name])
        if other is not None and other in losses:
            self._derived.learn(scheme, other, losses)
        return loss


class _Measurer:
    """Encodes a weight as it would be, and runs the model with it."""

    def __init__(self, meter: Meter, threads: int) -> None:
        self._meter, self._threads = meter, threads

    def __call__(self, seen: Seen, scheme: Scheme) -> Loss:
        values = seen.encode(scheme, self._threads).dequantize()
        difference = values.reshape(seen.weights.shape) - seen.weights
        return Loss(self._meter.divergence(seen.target, values), seen.error(difference))


class _Predictor:
    """Measures one encoding of each weight, and derives all candidates from their errors."""

    def __init__(self, meter: Meter, threads: int) -> None:
        self._meter, self._threads = meter, threads
        self._gains: dict[str, float] = {}
        self._factors: dict[str, float] = {}
        self._shares: dict[str, float] = {}

    def __call__(self, seen: Seen, scheme: Scheme) -> Loss:
        if seen.unit.name not in self._factors:
            self._factors[seen.unit.name] = self._factor(seen)
        error = self._error(seen, scheme) * self._gain(seen, scheme)
        return Loss(self._factors[seen.unit.name] * error, error)

    def _factor(self, seen: Seen) -> float:
        """Loss of the model for the error of this weight, by one encoding of it."""
        values = encode_plainly(seen, PROBE, slice(None), self._threads)
        error = seen.error(values - seen.weights)
        return self._meter.divergence(seen.target, values.reshape(seen.target.shape)) / error if error else 0.0

    def _error(self, seen: Seen, scheme: Scheme) -> float:
        step = max(1, seen.weights.shape[1] // SAMPLED_ROWS)
        rows = slice(None, None, step)
        return seen.error(encode_plainly(seen, scheme, rows, self._threads) - seen.weights[:, rows], step)

    def _gain(self, seen: Seen, scheme: Scheme) -> float:
        """What the methods of a scheme make of the error: found on the first weight that is asked for and has inputs.

        GPTQ gains by what inputs have in common, so its part goes with `variance_left`.
        """
        if plain_methods(scheme) == scheme.methods or seen.hessians is None:
            return 1.0
        key = f"{scheme.grid}{scheme.bits}:g{scheme.group_size}+{'+'.join(scheme.methods)}"
        alone = self._alone(seen) if "gptq" in scheme.methods else 1.0
        if key not in self._gains:
            full = seen.encode(scheme, self._threads).dequantize().reshape(seen.weights.shape)
            plain = encode_plainly(seen, scheme, slice(None), self._threads)
            before = seen.error(plain - seen.weights)
            self._gains[key] = seen.error(full - seen.weights) / before / alone if before else 1.0
        return self._gains[key] * alone

    def _alone(self, seen: Seen) -> float:
        name = seen.unit.name
        if name not in self._shares:
            self._shares = {name: variance_left(seen.hessians or [])}
        return self._shares[name]


def variance_left(hessians: Sequence[NDArray[np.float32]]) -> float:
    """Part of the inputs' energy that is left once each is predicted from those that GPTQ still has to encode: Σ R_jj² / tr H, H = R Rᵀ.

    By nearest levels a row loses its squared error times tr H, by GPTQ times Σ R_jj² (Chee, Cai, Kuleshov, De Sa: "QuIP", 2023, theorem 1).
    """
    kept = total = 0.0
    for hessian in hessians:
        if hessian.any():
            energy = float(np.trace(hessian))
            kept += energy * float(np.square(np.diagonal(damped_factor(hessian, "inputs"))).mean())  # of a mean diagonal of 1
            total += energy
    return kept / total if total else 1.0


def plain_methods(scheme: Scheme) -> tuple[str, ...]:
    """The methods of a scheme that only weigh errors."""
    return tuple(method for method in scheme.methods if method == "imp")


def encode_plainly(seen: Seen, scheme: Scheme, rows: slice, threads: int) -> NDArray[np.float32]:
    """Some rows [matrices, n, cols] of a weight by the nearest levels, weighed by the inputs where the scheme asks for it."""
    stack = seen.weights[:, rows]
    importance: Any = None
    if "imp" in scheme.methods and seen.hessians is not None:
        diagonals = [np.diagonal(hessian) for hessian in seen.hessians]
        importance = np.stack([one if one.any() else np.ones_like(one) for one in diagonals])[:, None]
    plain = replace(scheme, methods=plain_methods(scheme) if importance is not None else ())
    values: NDArray[np.float32] = encode(
        np.ascontiguousarray(stack), plain, name=seen.unit.name, importance=importance, threads=threads
    ).dequantize()
    return values
