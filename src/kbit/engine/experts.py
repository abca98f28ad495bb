"""Stacks of experts in checkpoints that keep each expert's matrices as tensors of their own.

kbit packs the experts of a layer as two stacks, `gate_up_proj` [experts, 2·width, inputs] with gate rows first, and `down_proj`
[experts, outputs, width]. Checkpoints mostly spell them out: ``experts.0.gate_proj.weight`` (Qwen), ``experts.0.w1.weight`` (Mixtral).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kbit.core.errors import ModelError
from kbit.store.folder import StoredModel

__all__ = ["STACKS", "ExpertParts", "find_experts", "read_experts"]

#: name of a stack → tensors of one expert that make its matrix, one below the other, in each known spelling
_SPELLINGS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}

#: last words of the names of stacks
STACKS = frozenset(_SPELLINGS)


@dataclass(frozen=True, slots=True)
class ExpertParts:
    """A stack that is to be made of single tensors.

    Attributes:
        tensors: for each expert, the tensors whose rows make its matrix.
        shape: [experts, rows, cols].
        dtype: dtype tag of all of them.
    """

    tensors: tuple[tuple[str, ...], ...]
    shape: tuple[int, int, int]
    dtype: str


def find_experts(stored: StoredModel, name: str) -> ExpertParts | None:
    """The tensors that make the stack ``….experts.gate_up_proj`` or ``….experts.down_proj``; None where there are none.

    Raises:
        ModelError: experts of different shapes or dtypes, or one that lacks a tensor.
    """
    parent, _, stack = name.rpartition(".")
    for spelling in _SPELLINGS.get(stack, ()):
        if f"{parent}.0.{spelling[0]}.weight" in stored:
            return _collect(stored, parent, spelling)
    return None


def read_experts(stored: StoredModel, parts: ExpertParts) -> np.ndarray[Any, Any]:
    """The stack, read tensor by tensor into its place."""
    out: np.ndarray[Any, Any] | None = None
    for expert, tensors in enumerate(parts.tensors):
        row = 0
        for tensor in tensors:
            array = stored.array(tensor)
            out = np.empty(parts.shape, array.dtype) if out is None else out
            out[expert, row : row + len(array)] = array
            row += len(array)
    assert out is not None, "find_experts saw expert 0"
    out.flags.writeable = False
    return out


def _collect(stored: StoredModel, parent: str, spelling: tuple[str, ...]) -> ExpertParts:
    tensors: list[tuple[str, ...]] = []
    while f"{parent}.{len(tensors)}.{spelling[0]}.weight" in stored:
        tensors.append(tuple(f"{parent}.{len(tensors)}.{part}.weight" for part in spelling))
    first = _shape(stored, tensors[0])
    for names in tensors:
        if (found := _shape(stored, names)) != first:
            expected = f"{first[2]} {list(first[:2])} as in expert 0"
            raise ModelError(f"{stored.path}: the expert of {names[0]!r}: expected {expected}, got {found[2]} {list(found[:2])}")
    rows, cols, dtype = first
    return ExpertParts(tuple(tensors), (len(tensors), rows, cols), dtype)


def _shape(stored: StoredModel, tensors: tuple[str, ...]) -> tuple[int, int, str]:
    """(rows, cols, dtype tag) of one expert's matrix."""
    entries = []
    for name in tensors:
        if name not in stored:
            raise ModelError(f"{stored.path}: expected {name!r} beside {tensors[0]!r}, got no such tensor")
        entries.append(stored.entry(name))
    if any(len(entry.shape) != 2 or (entry.shape[1], entry.dtype) != (entries[0].shape[1], entries[0].dtype) for entry in entries):
        found = ", ".join(f"{entry.dtype} {list(entry.shape)}" for entry in entries)
        raise ModelError(f"{stored.path}: {tensors[0]!r}: expected matrices of one width and dtype, got {found}")
    return sum(entry.shape[0] for entry in entries), entries[0].shape[1], entries[0].dtype
