"""Which arrays a quantized module has, by its scheme and shape alone: what slots are reserved from and what readers insist on."""

from collections.abc import Mapping

import numpy as np

from kbit.core.errors import FormatError, KbitError, LimitError
from kbit.store.header import DTYPES, LARGEST, TensorEntry, TensorSpec
from kbit.store.manifest import Module
from kbit.tensor.parts import PART_SUFFIXES
from kbit.tensor.quantized import part_shapes
from kbit.tensor.residual import RESIDUAL_SUFFIXES

__all__ = ["SUFFIXES", "check_parts", "part_names", "part_specs"]

SUFFIXES = (
    "weight",
    "weight_scale",
    "weight_super_scale",
    "weight_zero",
    "weight_codebook",
    "weight_mask",
    *RESIDUAL_SUFFIXES,
    *PART_SUFFIXES,
)
_TAGS = {DTYPES[tag]: tag for tag in ("U8", "I8", "U16", "I32", "F32")}


def part_names(module: str) -> tuple[str, ...]:
    """All names that arrays of a module may have."""
    return tuple(f"{module}.{suffix}" for suffix in SUFFIXES)


def part_specs(name: str, module: Module) -> tuple[TensorSpec, ...]:
    """The arrays of module `name`, dtype and shape each.

    Raises:
        FormatError: a shape that the scheme is not defined for.
        LimitError: arrays beyond 2^63 bytes.
    """
    try:
        shapes = part_shapes(module.scheme, module.shape)
    except KbitError as error:
        raise FormatError(f"module {name!r}: {error}") from None
    specs = tuple(TensorSpec(f"{name}.{suffix}", _TAGS[np.dtype(dtype)], shape) for suffix, (shape, dtype) in shapes.items())
    if sum(spec.nbytes for spec in specs) > LARGEST:
        raise LimitError(f"module {name!r}: {list(module.shape)} in {module.scheme} is beyond 2^63 bytes")
    return specs


def check_parts(name: str, module: Module, found: Mapping[str, TensorEntry], source: str) -> None:
    """Hold the arrays of a module against what its scheme and shape ask for.

    Raises:
        FormatError: one is missing, of another dtype or shape, or not asked for.
    """
    expected = {spec.name: spec for spec in part_specs(name, module)}
    for part in part_names(name):
        spec, entry = expected.get(part), found.get(part)
        if spec is None and entry is None:
            continue
        if spec is None or entry is None or (spec.dtype, spec.shape) != (entry.dtype, entry.shape):
            wanted = f"{spec.dtype} of shape {list(spec.shape)}" if spec else "no such array"
            got = f"{entry.dtype} of shape {list(entry.shape)}" if entry else "none"
            raise FormatError(f"{source}: {part!r}: scheme {module.scheme} and shape {list(module.shape)} ask for {wanted}, got {got}")
