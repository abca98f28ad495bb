"""`decode`: back to ordinary modules, or to an ordinary checkpoint.

float32 is the default because it is what a decoded weight is: scale · level has more bits than bfloat16 holds, and only in float32 does the
decoded model compute what the packed one does. Narrower dtypes are for tools that want them.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import nn

from kbit.core.errors import DTypeError, ModelError
from kbit.core.files import atomic_directory, open_regular, write_json
from kbit.model.architecture import TAGS, build_skeleton, stored_tensor
from kbit.model.encode import PLAN_ATTRIBUTE
from kbit.model.load import load, scheme_choice
from kbit.nn.ops import FLOAT_DTYPES
from kbit.nn.swap import unswap
from kbit.nn.targets import Target, find_targets
from kbit.store.check import side_files
from kbit.store.folder import StoredModel, open_model
from kbit.store.header import TensorSpec, build_header
from kbit.store.manifest import Manifest
from kbit.store.model_writer import DEFAULT_SHARD_BYTES
from kbit.store.shards import plan_shards, write_index
from kbit.store.writer import file_order

__all__ = ["decode", "decode_folder"]

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOAT_DTYPES}


def decode(
    model_or_path: nn.Module | str | Path,
    output: str | Path | None = None,
    dtype: str | torch.dtype = "float32",
    *,
    overwrite: bool = False,
) -> nn.Module | Path:
    """Decode a k-bit model.

    Args:
        model_or_path: an encoded module, which is changed in place; or the folder of a stored one.
        output: folder for an ordinary checkpoint, for a path.
        dtype: float32 reproduces the packed model; bfloat16 and float16 round once more.
        overwrite: replace a folder that is there.

    Returns:
        The module; with `output`, its path.

    Raises:
        ModelError: nothing there is packed.
        DTypeError: no float dtype of the three.
    """
    target = _dtype(dtype)
    if isinstance(model_or_path, nn.Module):
        if output is not None:
            raise ModelError("an output folder goes with a path; save_pretrained or torch.save write a decoded module")
        return _decode_module(model_or_path, target)
    if output is None:
        return _decode_module(load(model_or_path), target)
    decode_folder(model_or_path, output, target, overwrite=overwrite)
    return Path(output)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise DTypeError(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    return found


def _decode_module(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    unswap(model, dtype)
    model.to(dtype)
    if hasattr(model, PLAN_ATTRIBUTE):
        delattr(model, PLAN_ATTRIBUTE)
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        del model.config.quantization_config  # type: ignore[union-attr]
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    return model


def decode_folder(
    source: str | Path,
    destination: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write the ordinary checkpoint of a stored k-bit model, one tensor in memory at a time; all or nothing."""
    if Path(source).resolve() == Path(destination).resolve():
        raise ModelError(f"expected a destination other than the source, got {destination} for both")
    with open_model(source) as stored:
        if stored.manifest is None:
            raise ModelError(f"{source} is not a k-bit model: there is nothing to decode")
        tensors = _ordinary(stored, stored.manifest, dtype)
        layout = plan_shards([(spec,) for spec, _ in tensors.values()], max_shard_bytes)
        with atomic_directory(destination, overwrite=overwrite) as folder:
            for file_name, specs in layout.items():
                ordered = file_order(specs)
                with (folder / file_name).open("wb") as file:
                    file.write(build_header(ordered, {"format": "pt"}))
                    for spec in ordered:
                        _write(file, tensors[spec.name][1].tensor(stored, dtype))
            if len(layout) > 1:
                shard_of = {spec.name: file_name for file_name, specs in layout.items() for spec in specs}
                write_index(folder, shard_of, sum(spec.nbytes for spec, _ in tensors.values()))
            config = {key: value for key, value in stored.config.items() if key not in ("quantization_config", "torch_dtype")}
            write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
            for path in side_files(stored.path):
                with open_regular(path) as file:
                    (folder / path.name).write_bytes(file.read())


class _Source:
    """Where a tensor of the ordinary checkpoint comes from: a packed module, or a plain tensor."""

    def __init__(self, name: str, shape: tuple[int, ...] | None = None, transposed: bool = False) -> None:
        self.name, self.shape, self.transposed = name, shape, transposed

    def tensor(self, stored: StoredModel, dtype: torch.dtype) -> torch.Tensor:
        if self.shape is None:
            tensor = stored_tensor(stored, self.name)
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        weight = torch.from_numpy(np.ascontiguousarray(stored.quantized(self.name).dequantize())).to(dtype)
        return (weight.transpose(-1, -2) if self.transposed else weight).reshape(self.shape)


def _ordinary(stored: StoredModel, manifest: Manifest, dtype: torch.dtype) -> dict[str, tuple[TensorSpec, _Source]]:
    """Every tensor of the ordinary checkpoint, by name."""
    tensors: dict[str, tuple[TensorSpec, _Source]] = {}
    for name, source in _decoded(stored, manifest):
        assert source.shape is not None, "a packed module has a shape"
        tensors[name] = TensorSpec(name, TAGS[dtype], source.shape), source
    for name in stored.plain_names():
        entry = stored.entry(name)
        tag = TAGS[dtype] if entry.dtype in ("F64", "F32", "F16", "BF16") else entry.dtype
        tensors[name] = TensorSpec(name, tag, entry.shape), _Source(name)
    return tensors


def _decoded(stored: StoredModel, manifest: Manifest) -> Iterator[tuple[str, _Source]]:
    config = {key: value for key, value in stored.config.items() if key != "quantization_config"}
    skeleton = build_skeleton(config)
    targets: dict[str, Target] = {}
    if skeleton is not None:
        found, _ = find_targets(skeleton, scheme_choice(manifest))
        targets = {manifest.ties.get(target.name, target.name): target for target in found}
    aliases: dict[str, list[str]] = {}
    for alias, owner in manifest.ties.items():
        aliases.setdefault(owner, []).append(alias)
    for name, module in manifest.modules.items():
        if name in targets and skeleton is not None:
            target = targets[name]
            yield target.parameter, _Source(name, tuple(skeleton.get_parameter(target.parameter).shape), target.transposed)
        elif module.kind == "conv2d":
            raise ModelError(f"{name}: the shape of a convolution is not in the file: build the module, and use load_into and decode")
        else:
            transposed = module.kind == "conv1d"
            shape = (*module.shape[:-2], module.shape[-1], module.shape[-2]) if transposed else module.shape
            # nothing ties again what no architecture knows of, so every name gets its copy
            for place in (name, *aliases.get(name, ())):
                yield place if module.kind == "experts" else f"{place}.weight", _Source(name, shape, transposed)


def _write(file: BinaryIO, tensor: torch.Tensor) -> None:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    step = 64 << 20
    for begin in range(0, math.prod(flat.shape), step):
        file.write(flat[begin : begin + step].data)
