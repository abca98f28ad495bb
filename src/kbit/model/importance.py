"""Importance of a checkpoint's inputs: gathered into a file, and taken from one."""

import errno
from pathlib import Path

import torch

from kbit.calibrate.arithmetic import ArithmeticChoice, arithmetic_for
from kbit.calibrate.importance import Importance, gather_importance, read_importance
from kbit.core.errors import ModelError, SchemeError, StorageError
from kbit.core.methods import NEEDS_INPUTS
from kbit.core.plan import Plan
from kbit.core.progress import Progress
from kbit.model.calibrated import Calibration, as_windows
from kbit.model.load import load_ordinary
from kbit.model.recipe import Recipe
from kbit.nn.targets import find_targets
from kbit.store.folder import open_model

__all__ = ["calibrate_folder", "importance_for"]

#: any scheme that looks at inputs: which weights there are does not depend on it
_PLAN = Plan.of("int8:g16+imp")


def calibrate_folder(
    source: str | Path,
    path: str | Path,
    calibration: Calibration | None,
    *,
    arithmetic: ArithmeticChoice = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Importance:
    """Run `calibration` through the checkpoint in `source` and write how much each input matters to `path`.

    Linear layers, experts and an output head of its own are gathered; the model is loaded whole and run in `arithmetic`
    (`kbit.calibrate.arithmetic`).

    Raises:
        SchemeError: no calibration, or an unknown arithmetic.
        StorageError: `path` is there and `overwrite` is False, or a file cannot be read or written.
        ModelError, FormatError, ShapeError, NumericsError: as `kbit.model.quantize_folder`.
    """
    if Path(path).exists() and not overwrite:
        raise StorageError(errno.EEXIST, "it is there already: choose another name, or overwrite it", str(path))
    with open_model(source) as stored:
        if stored.manifest is not None or stored.config.get("quantization_config"):
            raise ModelError(f"{stored.path} is already quantized: expected a checkpoint in 16 or 32 bits; decode it first")
        windows = as_windows(calibration, stored, _PLAN, progress=progress)
    model = load_ordinary(Path(source), dtype=torch.float32)
    found, _ = find_targets(model, lambda name, kind: _PLAN.default)
    targets = [target for target in found if target.kind not in ("embedding", "conv2d")]
    chosen = arithmetic_for(arithmetic, {target.name: target.shape for target in targets})
    with Progress(1, "layers", "calibrate", enabled=progress) as line:

        def done(layers: int, count: int) -> None:
            line.total = count
            line.advance(1, f"layer {layers} of {count}")

        importance = gather_importance(model, targets, windows, arithmetic=chosen, done=done)
    importance.save(path)
    return importance


def importance_for(given: Importance | str | Path, recipe: Recipe) -> Importance:
    """Importance that all weights of `recipe` can be encoded by.

    Raises:
        SchemeError: a weight with a method that needs more than it.
        ModelError, ShapeError: a weight that it has nothing for, or something of another shape.
        StorageError, FormatError, NumericsError: a file that is not what it should be.
    """
    importance = given if isinstance(given, Importance) else read_importance(given)
    for name, unit in recipe.packed.items():
        more = sorted(NEEDS_INPUTS.intersection(unit.scheme.methods) - {"imp"})
        if more:
            raise SchemeError(f"{name}: an importance file is enough for '+imp'; '+{more[0]}' needs the calibration itself (--calibration)")
        if "imp" in unit.scheme.methods:
            importance.of(name, unit.shape)
    return importance
