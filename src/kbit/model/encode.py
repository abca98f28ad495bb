"""`encode`: a module in memory, or a checkpoint on disk, into k bits."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate import CALIBRATION_ATTRIBUTE
from kbit.calibrate.arithmetic import ArithmeticChoice, arithmetic_for
from kbit.calibrate.sequential import encode_sequentially
from kbit.calibrate.text import CalibrationWindows
from kbit.core.errors import ModelError, SchemeError
from kbit.core.methods import needs_inputs, refuse_folded, refuse_uncalibrated
from kbit.core.plan import Plan
from kbit.core.progress import Progress
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode as encode_nearest
from kbit.folding.choose import DEFAULT_FOLD, FoldChoice
from kbit.kernels import Mode
from kbit.model.calibrated import Calibration, as_windows
from kbit.model.folded import fold_module
from kbit.model.load import load_ordinary
from kbit.model.quantize import QuantizeResult, quantization_config, quantize_folder
from kbit.nn.packed import PackedModule
from kbit.nn.swap import swap_targets
from kbit.nn.targets import Target, find_targets
from kbit.store.folder import open_model
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["PLAN_ATTRIBUTE", "encode"]

#: attribute of an encoded module that remembers its plan
PLAN_ATTRIBUTE = "kbit_plan"


def encode(
    model_or_path: nn.Module | str | Path,
    scheme: Plan | Scheme | str,
    *,
    output: str | Path | None = None,
    calibration: Calibration | None = None,
    calibration_arithmetic: ArithmeticChoice = "auto",
    mode: Mode = "fast",
    fold: FoldChoice = DEFAULT_FOLD,
    threads: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> nn.Module | QuantizeResult:
    """Encode a model.

    Args:
        model_or_path: a torch module, which is changed in place; or the folder of a checkpoint.
        scheme: plan, scheme, or a scheme's text; with a scheme alone, embeddings and head stay in 16 bits.
        output: folder to write, for a path: the model then goes from disk to disk, tensor by tensor, and never through memory whole.
        calibration: what methods such as ``+gptq`` run: tokens (`CalibrationWindows`) for a module; for a folder also a text file or a
            `CalibrationText`. Without such methods it is not looked at.
        calibration_arithmetic: what they run it in, see `quantize_folder`.
        mode: arithmetic of the packed layers.
        fold: put rotations (``+rotate``) into the weights around where the architecture allows, see `quantize_folder`.
        threads: threads of the encoder; the bytes do not depend on it.
        progress: lines on stderr: True, False, or None for "where there is a stderr".
        options: `resume`, `overwrite`, `max_shard_bytes` of `quantize_folder`, which goes with `output`.

    Returns:
        The module; with `output`, the `QuantizeResult`.

    Raises:
        ModelError: the model is quantized already, or the plan encodes nothing of it.
        NumericsError: a weight is NaN or infinite; the message names tensor and index.
        SchemeError: a plan that cannot be understood, a method without a calibration, or an unknown arithmetic.
    """
    plan = Plan.of(scheme)
    if isinstance(model_or_path, nn.Module):
        if output is not None or options:
            raise ModelError("output, resume, overwrite and max_shard_bytes go with a path; kbit.save writes a module")
        return _encode_module(model_or_path, plan, mode, threads, progress, calibration, calibration_arithmetic, fold)
    if output is not None:
        options |= {"fold": fold, "threads": threads, "progress": progress, "calibration_arithmetic": calibration_arithmetic}
        return quantize_folder(model_or_path, output, plan, calibration=calibration, **options)
    if options:
        raise ModelError(f"{', '.join(sorted(options))} go with an output folder")
    if calibration is not None:
        with open_model(model_or_path) as stored:
            calibration = as_windows(calibration, stored, plan)
    return _encode_module(load_ordinary(model_or_path), plan, mode, threads, progress, calibration, calibration_arithmetic, fold)


def _encode_module(
    model: nn.Module,
    plan: Plan,
    mode: Mode,
    threads: int,
    progress: bool | None,
    calibration: Calibration | None,
    calibration_arithmetic: ArithmeticChoice,
    fold: FoldChoice,
) -> nn.Module:
    if any(isinstance(module, PackedModule) for module in model.modules()):
        raise ModelError("the model is already quantized: decode it first")
    targets, kept = find_targets(model, plan.scheme_for)
    if not targets:
        reasons = sorted({layer.reason for layer in kept}) or ["it has no Linear, Embedding, Conv or experts"]
        raise ModelError(f"the plan encodes nothing of {type(model).__name__}: {'; '.join(reasons[:3])}")

    for target in targets:
        refuse_folded(target.scheme.methods, target.name)
    windows = _given(calibration, targets) if any(needs_inputs(target.scheme.methods) for target in targets) else None
    arithmetic = arithmetic_for(calibration_arithmetic, {target.name: target.shape for target in targets})
    targets = fold_module(model, targets, fold)
    with Progress(sum(math.prod(target.shape) for target in targets), "weights", "encode", enabled=progress) as line:

        def done(target: Target) -> None:
            line.advance(math.prod(target.shape), target.name)

        if windows is not None:
            encoded: dict[str, QuantizedTensor] = {}
            for target, quantized in encode_sequentially(model, targets, windows, arithmetic=arithmetic, threads=threads):
                encoded[target.name] = quantized
                done(target)
            swap_targets(model, targets, encoder=lambda weight, scheme, name: encoded.pop(name), mode=mode)
            setattr(model, CALIBRATION_ATTRIBUTE, (windows.digest, windows.seed))
        else:
            swap_targets(model, targets, encoder=partial(_nearest, threads), mode=mode, done=done)
    setattr(model, PLAN_ATTRIBUTE, plan)
    settings: Any = getattr(model, "config", None)
    if hasattr(settings, "to_dict"):
        settings.quantization_config = quantization_config(plan)
    if hasattr(model, "save_pretrained"):  # a model of transformers: from here on the plug-in saves it
        from kbit.hf import attach

        attach(model)
    return model


def _nearest(threads: int, weight: NDArray[np.float32], scheme: Scheme, name: str) -> QuantizedTensor:
    return encode_nearest(weight, scheme, name=name, threads=threads)


def _given(calibration: Calibration | None, targets: Sequence[Target]) -> CalibrationWindows:
    if calibration is None:
        first = next(target for target in targets if needs_inputs(target.scheme.methods))
        refuse_uncalibrated(first.scheme.methods, first.name)
    if not isinstance(calibration, CalibrationWindows):
        raise SchemeError(
            f"a module has no tokenizer: expected calibration=CalibrationWindows(ids) for it, got {type(calibration).__name__}"
        )
    return calibration
