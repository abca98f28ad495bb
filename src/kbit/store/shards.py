"""A model over several files: which tensor goes into which file, and the index that says so.

Names in an index come from whoever made the folder, so each is held to be a plain file name in that folder. Symlinks may stay inside it,
or lead into the `blobs` of the hub cache the folder is a snapshot of; FIFOs and devices are refused unopened.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kbit.core.errors import FormatError, LimitError
from kbit.core.files import open_regular, resolve_inside, storage_errors, write_json
from kbit.core.shown import shown
from kbit.store.header import TensorSpec
from kbit.store.manifest import bounded_json

__all__ = ["INDEX_NAME", "SINGLE_NAME", "find_shards", "locate", "plan_shards", "read_index", "write_index"]

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
INDEX_BYTES = 16 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}\.safetensors")


def plan_shards(groups: Iterable[tuple[TensorSpec, ...]], max_shard_bytes: int) -> dict[str, list[TensorSpec]]:
    """File name → its tensors, filled in the given order; a group (the arrays of one module) is never split.

    A group larger than `max_shard_bytes` gets a file of its own.
    """
    if max_shard_bytes < 1:
        raise LimitError(f"max_shard_bytes: expected at least 1, got {max_shard_bytes}")
    shards: list[list[TensorSpec]] = [[]]
    room = max_shard_bytes
    for group in groups:
        size = sum(spec.nbytes for spec in group)
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].extend(group)
        room -= size
    if len(shards) == 1:
        return {SINGLE_NAME: shards[0]}
    return {f"model-{index:05}-of-{len(shards):05}.safetensors": shard for index, shard in enumerate(shards, 1)}


def write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Write the index of a model in several files, as other libraries read it."""
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))})


def read_index(folder: Path) -> dict[str, str]:
    """Tensor name → file name.

    Raises:
        FormatError: no index, or a name in it that is not that of a file in the folder.
    """
    path = locate(folder, INDEX_NAME)
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read(INDEX_BYTES + 1)
    if len(data) > INDEX_BYTES:
        raise LimitError(f"{path}: expected at most {INDEX_BYTES} bytes, got more")
    value = bounded_json(data, str(path), brackets=100, commas=150_000)
    weight_map: Any = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path}: field 'weight_map': expected an object from tensor to file name, got {shown(weight_map)}")
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _FILE_NAME.fullmatch(file_name):
            raise FormatError(f"{path}: field 'weight_map': tensor {shown(name)}: expected a file name, got {shown(file_name)}")
    return weight_map


def find_shards(folder: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """File names of a model's containers, and the index (None for a single file).

    Raises:
        FormatError: neither a single file nor an index, or both.
    """
    single, index = ((folder / name).exists() for name in (SINGLE_NAME, INDEX_NAME))
    if single and index:
        raise FormatError(f"{folder} has {SINGLE_NAME} and {INDEX_NAME}: expected one of them, which are two revisions of a model")
    if single:
        return (SINGLE_NAME,), None
    if not index:
        raise FormatError(f"{folder} has no {SINGLE_NAME} and no {INDEX_NAME}: not a model in safetensors")
    weight_map = read_index(folder)
    return tuple(sorted(set(weight_map.values()))), weight_map


def locate(folder: Path, name: str) -> Path:
    """The path of a file of a model's folder; it stays inside the folder, or inside the hub cache that the folder is a snapshot of."""
    within = folder.resolve()
    if within.parent.name == "snapshots":
        within = within.parent.parent
    return resolve_inside(folder, name, within=within)
