"""`save`: an encoded module to a folder: atomic, read back, and compared bit by bit with what is in memory."""

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kbit.calibrate import CALIBRATION_ATTRIBUTE
from kbit.core.errors import DTypeError, IntegrityError, ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.model.architecture import TAGS, to_array
from kbit.model.encode import PLAN_ATTRIBUTE
from kbit.model.quantize import quantization_config
from kbit.nn.packed import PackedModule
from kbit.nn.swap import packed_modules
from kbit.nn.targets import packed_kind
from kbit.store.folder import open_model
from kbit.store.header import TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import DEFAULT_SHARD_BYTES, ModelWriter

__all__ = ["plan_of", "save"]

Array = np.ndarray[Any, Any]


def save(
    model: nn.Module,
    path: str | Path,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    files: tuple[Path, ...] = (),
) -> str:
    """Write an encoded module; nothing stands under `path` before everything has been read back.

    Args:
        model: a module that `encode`, `load` or `load_into` made.
        path: the folder to be.
        overwrite: replace a folder that is there.
        max_shard_bytes: most bytes of tensors in a file.
        files: what else belongs to the model, such as its tokenizer's files.

    Returns:
        The root hash that names the model.

    Raises:
        ModelError: nothing in the module is packed.
        IntegrityError: what was read back is not what is in memory.
        StorageError: the folder is taken, or the disk said no.
    """
    packed, ties = _packed(model)
    if not packed:
        raise ModelError(f"{type(model).__name__} holds no packed layer: expected a module that kbit.encode made")
    plain, plain_ties = _plain(model)
    plan = plan_of(model)
    modules = {name: Module(layer.scheme, layer.packed_shape, packed_kind(model, layer)) for name, layer in packed.items()}
    digest, seed = getattr(model, CALIBRATION_ATTRIBUTE, (None, 0))
    manifest = Manifest(plan=plan, modules=modules, ties=ties | plain_ties, calibration_digest=digest, seed=seed)
    specs = [TensorSpec(name, _tag(name, tensor), tuple(tensor.shape)) for name, tensor in plain.items()]
    with (
        tempfile.TemporaryDirectory() as scratch,
        ModelWriter(path, manifest, specs, max_shard_bytes=max_shard_bytes, overwrite=overwrite, resume=False) as writer,
    ):
        for name in list(writer.pending()):
            if name in packed:
                writer.put_quantized(name, packed[name].quantized)
            else:
                writer.put(name, to_array(plain[name].cpu()))
        root = writer.finish(_config(model, plan), (*_generation_files(model, Path(scratch)), *files))
    _compare(Path(path), packed, plain)
    return root


def plan_of(model: nn.Module) -> Plan:
    """The plan an encoded module was made by; without one, its commonest scheme, and a rule for each module that has another."""
    remembered = getattr(model, PLAN_ATTRIBUTE, None)
    if isinstance(remembered, Plan):
        return remembered
    stated = getattr(getattr(model, "config", None), "quantization_config", None)
    plan = getattr(stated, "plan", None)
    if isinstance(plan, Plan):
        return plan
    if isinstance(stated, dict) and stated.get("quant_method") == "kbit":
        return Plan.from_json({key: value for key, value in stated.items() if key in ("default", "embedding", "head", "rules", "skip")})
    packed = packed_modules(model)
    if not packed:
        raise SchemeError(f"{type(model).__name__} holds no packed layer, and remembers no plan")
    plan = Plan(Counter(layer.scheme for layer in packed.values()).most_common(1)[0][0])
    others = [
        (f"^{name.replace('.', '[.]')}$", layer.scheme)
        for name, layer in packed.items()
        if plan.scheme_for(name, packed_kind(model, layer)) != layer.scheme
    ]
    return replace(plan, rules=tuple(others))


def _packed(model: nn.Module) -> tuple[dict[str, PackedModule], dict[str, str]]:
    """Packed modules under one name each, and the other names they go by."""
    owners: dict[int, str] = {}
    packed: dict[str, PackedModule] = {}
    ties: dict[str, str] = {}
    for name, layer in packed_modules(model).items():
        owner = owners.setdefault(id(layer._parameters["weight"]), name)
        if owner == name:
            packed[name] = layer
        else:
            ties[name] = owner
    return packed, ties


def _plain(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What is not packed, each memory under one name, and the other names it goes by."""
    parts = {f"{name}.{part}" for name, layer in model.named_modules(remove_duplicate=False) for part in _part_names(layer)}
    owners: dict[Any, str] = {}
    plain: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        if name in parts:
            continue
        owner = owners.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), name)
        if owner == name:
            plain[name] = tensor
        else:
            ties[name] = owner
    return plain, ties


def _part_names(layer: nn.Module) -> tuple[str, ...]:
    return layer.part_names if isinstance(layer, PackedModule) else ()


def _tag(name: str, tensor: torch.Tensor) -> str:
    if tensor.dtype not in TAGS:
        raise DTypeError(f"{name}: expected a dtype that safetensors holds, got {tensor.dtype}")
    return TAGS[tensor.dtype]


def _config(model: nn.Module, plan: Plan) -> dict[str, Any]:
    config: dict[str, Any] = {}
    stated: Any = getattr(model, "config", None)
    if hasattr(stated, "to_json_string"):
        settings = json.loads(stated.to_json_string())
        config = {"architectures": [type(model).__name__], **{key: value for key, value in settings.items() if key != "architectures"}}
    return config | {"quantization_config": quantization_config(plan)}


def _generation_files(model: nn.Module, scratch: Path) -> tuple[Path, ...]:
    settings = getattr(model, "generation_config", None)
    if settings is None or not hasattr(settings, "to_json_string"):
        return ()
    path = scratch / "generation_config.json"
    path.write_text(settings.to_json_string())
    return (path,)


def _compare(path: Path, packed: dict[str, PackedModule], plain: dict[str, torch.Tensor]) -> None:
    with open_model(path) as stored:
        for name, layer in packed.items():
            for part, array in layer.quantized.parts().items():
                _same(f"{name}.{part}", stored.array(f"{name}.{part}"), array)
        for name, tensor in plain.items():
            _same(name, stored.array(name), to_array(tensor.cpu()))


def _same(name: str, stored: Array, memory: Array) -> None:
    if stored.shape != memory.shape or stored.tobytes() != memory.tobytes():
        raise IntegrityError(f"{name}: what was read back from the disk is not what is in memory")
