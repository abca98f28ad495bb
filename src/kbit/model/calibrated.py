"""The part of `quantize_folder` that looks at inputs: a checkpoint whose plan has methods is encoded layer by layer.

The model is loaded whole, in the checkpoint's own dtype; beside it lie hidden states and the Hessians of one layer at a time. A layer
that has been run gives its weights back. Every finished weight is in the journal. After a kill the text is run again through what is
encoded already, which costs one pass and no encoding, and the bytes are those of an uninterrupted run.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from kbit.calibrate.arithmetic import Arithmetic
from kbit.calibrate.chat import ChatTemplate
from kbit.calibrate.generated import GeneratedText, first_token
from kbit.calibrate.room import Room
from kbit.calibrate.sequential import CalibrationReport, calibration_bytes, check_methods, encode_sequentially
from kbit.calibrate.text import CalibrationText, CalibrationWindows
from kbit.core.errors import ModelError, SchemeError
from kbit.core.memory import rss_bytes
from kbit.core.methods import needs_inputs, refuse_uncalibrated
from kbit.core.plan import Plan
from kbit.model.architecture import Origin, to_array
from kbit.model.folded import place_folded
from kbit.model.load import load_ordinary
from kbit.model.recipe import PackUnit, Recipe
from kbit.nn.targets import Target, find_targets
from kbit.store.folder import StoredModel
from kbit.store.model_writer import ModelWriter
from kbit.store.tokenizer import load_tokenizer

__all__ = ["CalibratedModel", "Calibration", "as_windows", "needs_calibration"]

Calibration = CalibrationText | CalibrationWindows | GeneratedText | str | Path

_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


def needs_calibration(plan: Plan, recipe: Recipe) -> bool:
    """Whether any weight of the recipe is encoded by its inputs.

    Raises:
        SchemeError: a weight that has none is to be.
    """
    for name, unit in recipe.packed.items():
        check_methods([_as_target(name, unit)])
    return any(needs_inputs(unit.scheme.methods) for unit in recipe.packed.values())


def as_windows(calibration: Calibration | None, stored: StoredModel, plan: Plan, *, progress: bool | None = False) -> CalibrationWindows:
    """The tokens to calibrate on.

    Raises:
        SchemeError: there is no calibration text.
        StorageError, FormatError, ShapeError: a text or tokenizer that is not what it should be.
    """
    if calibration is None:
        scheme = next(
            (one for one in (plan.default, plan.head, *(rule for _, rule in plan.rules)) if needs_inputs(one.methods)), plan.default
        )
        refuse_uncalibrated(scheme.methods, f"scheme {scheme.text!r}")
        raise SchemeError("expected a calibration text, got none")
    if isinstance(calibration, CalibrationWindows):
        return calibration
    positions = next((stored.config[key] for key in _POSITIONS if isinstance(stored.config.get(key), int)), None)
    if isinstance(calibration, GeneratedText):
        start = first_token(stored.config)
        return calibration.windows(load_ordinary(stored.path, dtype=torch.float32), start, positions=positions, progress=progress)
    text = calibration if isinstance(calibration, CalibrationText) else CalibrationText((calibration,))
    tokenizer = None if text.is_tokens else load_tokenizer(stored.path)
    size = stored.config.get("vocab_size")
    vocabulary = size if isinstance(size, int) and size > 0 else None
    return text.windows(tokenizer, positions=positions, vocabulary=vocabulary, chat=ChatTemplate(stored.path))


class CalibratedModel:
    """A checkpoint loaded to be encoded by its inputs.

    Attributes:
        report: what the text reached; complete after `encode_into`.
        estimate_bytes: memory that will be needed beside what is resident once the model is loaded.
    """

    def __init__(
        self, stored: StoredModel, recipe: Recipe, plan: Plan, windows: CalibrationWindows, room: Room, arithmetic: Arithmetic
    ) -> None:
        """Load the model; `room` is where Hessians will be gathered, `arithmetic` what it will run in.

        Raises:
            ModelError: transformers does not know it, or its layers are not those of the recipe.
        """
        dtypes = {unit.origin.dtype for unit in recipe.packed.values()}
        dtype = _DTYPES.get(next(iter(dtypes)), torch.float32) if len(dtypes) == 1 else torch.float32
        before = rss_bytes()
        self._model, self._windows = load_ordinary(stored.path, dtype=dtype), windows
        whole = sum(parameter.numel() * parameter.element_size() for parameter in self._model.parameters())
        unread = max(0, whole - (rss_bytes() - before))  # files are mapped, and read as their values are
        self._room, self._arithmetic = room, arithmetic
        found, _ = find_targets(self._model, plan.scheme_for)
        self._targets = [
            replace(target, scheme=recipe.packed[target.name].scheme) for target in found if target.name in recipe.packed
        ]  # what was folded is left out of schemes
        if {target.name: target.shape for target in self._targets} != {name: unit.shape for name, unit in recipe.packed.items()}:
            raise ModelError(f"{stored.path}: the layers of the loaded model are not those of its checkpoint: it cannot be calibrated")
        place_folded(self._model, stored, recipe)
        self._changes = any({"awq", "bias"} & set(target.scheme.methods) for target in self._targets)
        self.report = CalibrationReport.of(windows)
        self.estimate_bytes = unread + calibration_bytes(self._model, self._targets, windows, room.limit_bytes)

    def encode_into(self, writer: ModelWriter, *, threads: int, done: Callable[[str], None]) -> None:
        """Write every weight of the recipe that `writer` does not have yet; `done` is called after each."""
        pending = set(writer.pending())
        if pending.isdisjoint(target.name for target in self._targets) and not (pending and self._changes):
            return
        known = lambda name: None if name in pending else writer.quantized(name)  # noqa: E731
        found = encode_sequentially(
            self._model,
            self._targets,
            self._windows,
            report=self.report,
            known=known,
            room=self._room,
            arithmetic=self._arithmetic,
            threads=threads,
            spend=True,
        )
        for target, quantized in found:
            if target.name in pending:
                writer.put_quantized(target.name, quantized)
                done(target.name)

    def changed(self, origin: Origin) -> NDArray[Any] | None:
        """The values of a tensor that stays in 16 bits, where methods gave it others; None where it is as the checkpoint has it."""
        if origin.name not in self.report.changed:
            return None
        return to_array(self._model.get_parameter(origin.name).detach().to(_DTYPES.get(origin.dtype, torch.float32)).contiguous())


def _as_target(name: str, unit: PackUnit) -> Target:
    return Target(name, unit.kind, unit.scheme, unit.origin.name, unit.shape, unit.transposed, torch.float32, (name,))
