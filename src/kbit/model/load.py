"""`load`: a stored k-bit model into memory; `load_into`: into a module that the caller builds."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from kbit.core.errors import MissingExtraError, ModelError, ShapeError
from kbit.core.scheme import KEEP, Scheme, TensorKind
from kbit.kernels import Mode
from kbit.model.architecture import model_class, stored_tensor
from kbit.nn.packed import PackedModule, share_packed
from kbit.nn.swap import packed_modules, set_mode, swap
from kbit.store.check import check_folder
from kbit.store.folder import StoredModel, open_model
from kbit.store.manifest import Manifest

__all__ = ["load", "load_into", "load_ordinary", "scheme_choice"]


def load(path: str | Path, *, mode: Mode = "fast", **options: Any) -> nn.Module:
    """A k-bit model of transformers, ready to run.

    Args:
        path: a folder that kbit wrote.
        mode: arithmetic of the packed layers, "fast" or "exact".
        options: of `from_pretrained`, such as `dtype` for what was left in 16 bits.

    Raises:
        ModelError: the folder is no k-bit model, or of no architecture that transformers knows (see `load_into`).
        FormatError, IntegrityError: the folder is not what it claims to be.
    """
    path = Path(path)
    with open_model(path) as stored:
        if stored.manifest is None:
            raise ModelError(f"{path} is not a k-bit model: expected a folder that kbit wrote; kbit.encode makes one")
        cls = _class_of(stored.config, path)
    import kbit.hf  # noqa: F401 (registers the plug-in with transformers, which is optional up to here)

    model: nn.Module = cls.from_pretrained(path, local_files_only=True, **options)
    set_mode(model, mode)
    return model


def load_ordinary(path: str | Path, **options: Any) -> nn.Module:
    """A checkpoint of transformers as it is; options of `from_pretrained`, such as `dtype`.

    Raises:
        ModelError: transformers knows no such architecture, or the checkpoint is quantized.
    """
    config = check_folder(path)
    if config.get("quantization_config"):
        raise ModelError(f"{path} is already quantized: expected a checkpoint in 16 or 32 bits; decode it first")
    model: nn.Module = _class_of(config, Path(path)).from_pretrained(path, local_files_only=True, **options)
    return model


def load_into(module: nn.Module, path: str | Path, *, mode: Mode = "fast") -> nn.Module:
    """Fill `module`, an ordinary torch module of the right architecture, from a stored k-bit model; changed in place.

    Layers that are packed in the file are exchanged for packed ones; everything else is copied into the module's own tensors, in the
    module's dtypes.

    Raises:
        ModelError: file and module do not have the same layers.
        ShapeError: a tensor of another shape.
    """
    with open_model(path) as stored:
        if stored.manifest is None:
            raise ModelError(f"{path} is not a k-bit model: expected a folder that kbit wrote")
        swap(module, scheme_choice(stored.manifest), encoder=None, mode=mode)
        _fill_packed(module, stored, stored.manifest)
        _fill_plain(module, stored)
    return module


def scheme_choice(manifest: Manifest) -> Any:
    """(name, kind) → the scheme that a stored model has for a module, "16" for what it does not pack."""

    def choose(name: str, kind: TensorKind) -> Scheme:
        module = manifest.modules.get(manifest.ties.get(name, name))
        return KEEP if module is None else module.scheme

    return choose


def _class_of(config: dict[str, Any], path: Path) -> Any:
    cls = model_class(config)
    if cls is None:
        try:
            import transformers  # noqa: F401
        except ImportError:
            raise MissingExtraError("transformers", "hf") from None
        raise ModelError(f"{path}: transformers knows no model of type {config.get('model_type')!r}: build the module and use load_into")
    return cls


def _fill_packed(module: nn.Module, stored: StoredModel, manifest: Manifest) -> None:
    packed = packed_modules(module)
    names = {manifest.ties.get(name, name) for name in packed}
    if names != set(manifest.modules):
        missing = sorted(set(manifest.modules) - names)
        raise ModelError(f"{stored.path} packs {len(missing)} modules that {type(module).__name__} does not have, first {missing[:1]}")
    filled: dict[int, PackedModule] = {}
    for name, layer in packed.items():
        weight = id(layer._parameters["weight"])
        if weight in filled:
            share_packed(filled[weight], layer)
        else:
            filled[weight] = layer
            layer.load_quantized(stored.quantized(name))


def _fill_plain(module: nn.Module, stored: StoredModel) -> None:
    parts = {f"{name}.{part}" for name, layer in packed_modules(module).items() for part in layer.part_names}
    wanted = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if name not in parts}
    known = set(stored.plain_names())
    missing = sorted(name for name in wanted if stored.tied.get(name, name) not in known)
    unexpected = sorted(known - set(wanted))
    if missing or unexpected:
        raise ModelError(f"{stored.path} and {type(module).__name__} differ: missing {missing[:3]}, unexpected {unexpected[:3]}")
    for name, target in wanted.items():
        tensor = stored_tensor(stored, name)
        if tensor.shape != target.shape:
            raise ShapeError(f"{name}: expected shape {tuple(target.shape)}, got {tuple(tensor.shape)} in {stored.path}")
        if target.is_meta:
            owner, _, leaf = name.rpartition(".")
            setattr(
                module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False) if isinstance(target, nn.Parameter) else tensor
            )
        else:
            with torch.no_grad():
                target.copy_(tensor)
