"""What a checkpoint's tensors are: its architecture built without memory, and the way from checkpoint names to parameters.

The skeleton is the model's own class on the meta device: it knows which weight is a Linear, an Embedding, a GPT-2 Conv1D or a stack of
experts, and which are tied, without a table of architectures in kbit. transformers also keeps the renamings and fusions between what is
in files (`experts.0.w1.weight`) and what is in memory (`experts.gate_up_proj`); they are asked of it, on meta tensors first, so that every
shape is known before anything is read. No code of the folder is run.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from kbit.core.errors import DTypeError, ModelError
from kbit.store.folder import StoredModel

__all__ = ["TAGS", "TORCH_DTYPES", "Origin", "build_skeleton", "find_origins", "model_class", "read_tensor", "stored_tensor", "to_array"]

#: dtype tags of safetensors that a checkpoint's plain tensors may have
TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_HELD_AS = {torch.bfloat16: torch.uint16, torch.bool: torch.uint8}
TAGS = {dtype: tag for tag, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Origin:
    """A parameter of the model, and the checkpoint's tensors it is made of.

    Attributes:
        name: dotted name of the parameter.
        keys: tensors of the checkpoint, in the order `fuse` wants them.
        shape: of the parameter.
        dtype: dtype tag of the checkpoint's tensors.
        fuse: makes the parameter from the tensors; None where it is one tensor as it is.
    """

    name: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fuse: Callable[[list[torch.Tensor]], torch.Tensor] | None = None


def model_class(config: Mapping[str, Any]) -> Any | None:
    """The class of transformers that a `config.json` names; None where there is none (the names and shapes must do then)."""
    try:
        import transformers
    except ImportError:
        return None
    if config.get("model_type") not in transformers.CONFIG_MAPPING:
        return None
    names = config.get("architectures") or []
    named = getattr(transformers, names[0], None) if isinstance(names, list) and names and isinstance(names[0], str) else None
    if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
        return named
    return transformers.AutoModel


def build_skeleton(config: Mapping[str, Any]) -> nn.Module | None:
    """The model of a `config.json` on the meta device, its ties made; None where transformers knows no such model.

    Raises:
        ModelError: the configuration is of a known model, and building it fails.
    """
    cls = model_class(config)
    if cls is None:
        return None
    import transformers

    values = {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}
    try:
        settings = transformers.AutoConfig.for_model(**values)
        with torch.device("meta"):
            skeleton: nn.Module = cls.from_config(settings) if cls is transformers.AutoModel else cls._from_config(settings)
    except Exception as error:  # whatever a model's own constructor makes of a wrong configuration
        raise ModelError(f"cannot build {config.get('model_type')!r} from its config.json: {type(error).__name__}: {error}") from error
    return skeleton


def find_origins(stored: StoredModel, skeleton: nn.Module | None) -> list[Origin]:
    """An origin for every parameter and buffer that the checkpoint holds, in the order of the checkpoint's names."""
    if skeleton is None:
        return [_plain(stored, name, name) for name in stored.names()]
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(skeleton)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    known = skeleton.state_dict()
    origins: list[Origin] = []
    fused: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(stored.names(), key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, skeleton.base_model_prefix, known)
        if name not in known and key in known:
            name, pattern = key, None
        if pattern is None:
            origins.append(_plain(stored, name if name in known else key, key))
        else:
            fused.setdefault(name, []).append((key, pattern))
    for name, members in fused.items():
        origins += _fused(stored, skeleton, name, members, by_pattern[members[0][1]])
    return origins


def read_tensor(stored: StoredModel, origin: Origin) -> torch.Tensor:
    """The whole parameter, in the checkpoint's dtype."""
    tensors = [stored_tensor(stored, key) for key in origin.keys]
    return tensors[0] if origin.fuse is None else origin.fuse(tensors)


def stored_tensor(stored: StoredModel, name: str) -> torch.Tensor:
    """A stored tensor that is not packed."""
    array, dtype = stored.array(name), stored.entry(name).dtype
    array.flags.writeable = True  # fresh memory of ours: torch warns of read-only arrays
    tensor = torch.from_numpy(array)
    return tensor.view(TORCH_DTYPES[dtype]) if dtype in ("BF16", "BOOL") else tensor


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor in main memory as containers hold it: bfloat16 as uint16, bool as uint8."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype in _HELD_AS:
        tensor = tensor.view(_HELD_AS[tensor.dtype])
    array: NDArray[Any] = tensor.numpy()
    return array


def _plain(stored: StoredModel, name: str, key: str) -> Origin:
    entry = stored.entry(key)
    return Origin(name, (key,), entry.shape, entry.dtype)


def _fused(stored: StoredModel, skeleton: nn.Module, name: str, members: list[tuple[str, str]], converter: Any) -> list[Origin]:
    """Origins of what a converter makes: one or several parameters, their shapes learnt on the meta device."""
    keys = tuple(key for key, _ in members)
    entries = [stored.entry(key) for key in keys]
    dtypes = {entry.dtype for entry in entries}
    if len(dtypes) != 1 or not dtypes <= set(TORCH_DTYPES):
        raise DTypeError(
            f"{name}: expected {len(keys)} tensors of one float dtype, got {', '.join(sorted(dtypes))} in {keys[0]!r} and others"
        )

    def convert(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        step = copy.deepcopy(converter)
        for (key, pattern), tensor in zip(members, tensors, strict=True):
            step.add_tensor(name, key, pattern, tensor)
        made = step.convert(name, model=skeleton, config=skeleton.config)
        return {target: value[0] if isinstance(value, list) else value for target, value in made.items()}

    dtype = entries[0].dtype
    shapes = convert([torch.empty(entry.shape, dtype=TORCH_DTYPES[dtype], device="meta") for entry in entries])
    return [
        Origin(target, keys, tuple(value.shape), dtype, lambda tensors, target=target: convert(tensors)[target])  # type: ignore[misc]
        for target, value in shapes.items()
    ]
