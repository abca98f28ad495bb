"""`QuantizedTensor`: codes, scales and codebook of one tensor, in the very arrays that files store and kernels read.

weight               uint8     [bytes]               packed planes, or lines of a trellis, the matrices of a stack one after another
weight_scale         uint16    [tiles, groups, 16]   fp16 bits; with e4m3 uint8 bits, with dq8 int8
weight_super_scale   float32   [1] or [tiles]        e4m3 or dq8; absent with fp16
weight_zero          uint8     [tiles, groups, 16]   asymmetric schemes only
weight_codebook      float32   [2^bits]              fitted grids only: ascending levels; entries past the last repeat it
                               [2 · 2^bits]          nested: those of k bits at 2^k, for every k (`kbit.tensor.nested`)
                     uint16    [2^bits, dims]        vq: fp16 bits; an entry holds the `dims` weights that its code stands for

A stack of E matrices has scales, super-scales and zero points of shape [E, …]. Parts beside the codes: `kbit.tensor.parts`; residual
levels of a cascade: `kbit.tensor.residual`; a pruned matrix has codes for some of its weights only, and a mask (`kbit.tensor.pruned`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, FormatError, NumericsError, SchemeError, ShapeError
from kbit.core.rotation import rotation_block
from kbit.core.scheme import Scheme
from kbit.grids import is_data_dependent, levels_for
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, code_cols, expand_groups, logical_shape
from kbit.tensor.packing import check_codes, packed_bytes, unpack
from kbit.tensor.parts import PART_SUFFIXES, add_parts, part_label, side_shapes, validate_parts
from kbit.tensor.pruned import mask_bytes, stream_bytes, tile_bytes, unpack_mask, unpack_stream, validate_pruned
from kbit.tensor.residual import RESIDUAL_SUFFIXES, level_parts, residual_shapes
from kbit.tensor.rotation import restore_rows
from kbit.tensor.scales import SCALE_DTYPES, decode_scale
from kbit.tensor.trellis import padding_is_zero, unpack_indices

__all__ = ["QuantizedTensor", "pad_codebook", "part_bytes", "part_shapes", "stored_vectors"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_ROWS_AT_ONCE = 1024
#: parts that are kept by name
_EXTRA = frozenset(("weight_mask", *RESIDUAL_SUFFIXES, *PART_SUFFIXES))


def part_shapes(scheme: Scheme, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Stored parts of a tensor of logical `shape`: name → (shape, dtype), `weight` first.

    Raises:
        SchemeError: the scheme leaves the tensor in 16 bits.
        ShapeError: neither [rows, cols] nor [matrices, rows, cols].
    """
    fitted = is_data_dependent(scheme)
    matrices, rows, cols = logical_shape(shape)
    layout = BlockLayout.of(scheme, rows, cols)
    stack = (matrices,) if len(shape) == 3 else ()
    pruned = scheme.spec.pruned
    size = stream_bytes(scheme, rows, cols) if pruned else packed_bytes(rows, code_cols(scheme, cols), scheme.bits)
    parts: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "weight": ((matrices * size,), np.dtype(np.uint8)),
        "weight_scale": (stack + layout.scale_shape, SCALE_DTYPES[scheme.scale_dtype]),
    }
    if scheme.scale_dtype != "fp16":
        supers = 1 if scheme.scale_dtype == "e4m3" else layout.tiles
        parts["weight_super_scale"] = ((*stack, supers), np.dtype(np.float32))
    if not scheme.symmetric:
        parts["weight_zero"] = (stack + layout.scale_shape, np.dtype(np.uint8))
    if fitted:
        vectors = ((1 << scheme.bits, scheme.dims), np.dtype(np.uint16))
        levels = (((2 if scheme.grid == "nested" else 1) << scheme.bits,), np.dtype(np.float32))
        parts["weight_codebook"] = vectors if scheme.dims > 1 else levels
    if pruned:
        parts["weight_mask"] = ((*stack, mask_bytes(rows, cols)), np.dtype(np.uint8))
    return parts | residual_shapes(scheme, rows, cols, stack) | side_shapes(scheme, rows, cols, stack)


def part_bytes(scheme: Scheme, shape: tuple[int, ...]) -> dict[str, int]:
    """Bytes of each stored part of a tensor of logical `shape`; errors as `part_shapes`."""
    return {part: math.prod(shape) * dtype.itemsize for part, (shape, dtype) in part_shapes(scheme, shape).items()}


@lru_cache(maxsize=64)
def _fixed_levels(scheme: Scheme) -> Float32:
    levels = levels_for(scheme)
    levels.flags.writeable = False
    return levels


def pad_codebook(levels: Float32, bits: int) -> Float32:
    """Levels as stored: 2^bits entries, the last level repeated."""
    if not 1 <= levels.size <= 1 << bits:
        raise ShapeError(f"expected 1…{1 << bits} levels, got {levels.size}")
    return np.pad(np.asarray(levels, np.float32), (0, (1 << bits) - levels.size), mode="edge")


def stored_vectors(codebook: Float32) -> npt.NDArray[np.uint16]:
    """A vector codebook [2^bits, dims] as stored: fp16 bits; what lies beyond fp16 is cut to its largest value."""
    return np.clip(codebook, -65504, 65504).astype(np.float16).view(np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """One tensor in k bits: w ≈ scale · (levels[code] − zero_point), of rotated inputs where the scheme says ``rotate``.

    Shapes and dtypes of the parts are checked here; their contents, which may come from anywhere, by `validate`.

    Attributes:
        scheme: how it is encoded.
        shape: logical shape, (rows, cols) or (matrices, rows, cols).
        weight: packed planes.
        scale: stored scales.
        super_scale: what the stored scales are multiples of (e4m3, dq8).
        zero_point: integers in level units (asymmetric schemes).
        codebook: fitted levels as stored; None where they follow from the scheme.
        extra: mask of a pruned tensor, residual levels and parts beside the codes, by name.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    weight: Bytes
    scale: Array
    super_scale: Float32 | None = None
    zero_point: Bytes | None = None
    codebook: Array | None = None
    extra: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        _check_parts(self.scheme, self.shape, self.parts())

    @classmethod
    def from_parts(cls, scheme: Scheme, shape: tuple[int, ...], parts: Mapping[str, Array]) -> Self:
        """Tensor of its stored parts.

        Raises:
            ShapeError, DTypeError: a part that is missing, unexpected, or of another shape or dtype.
        """
        _check_parts(scheme, shape, parts)
        return cls(
            scheme,
            shape,
            parts["weight"],
            parts["weight_scale"],
            parts.get("weight_super_scale"),
            parts.get("weight_zero"),
            parts.get("weight_codebook"),
            {name: part for name, part in parts.items() if name in _EXTRA},
        )

    def parts(self) -> dict[str, Array]:
        """Arrays as stored, by name."""
        parts = {
            "weight": self.weight,
            "weight_scale": self.scale,
            "weight_super_scale": self.super_scale,
            "weight_zero": self.zero_point,
            "weight_codebook": self.codebook,
            **self.extra,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def levels(self) -> Float32:
        """Distinct levels, ascending float32 [n], n ≤ 2^bits, or the entries of a vector grid, [2^bits, dims]; read-only."""
        if self.codebook is None:
            return _fixed_levels(self.scheme)
        if self.codebook.ndim == 2:
            return self.codebook.view(np.float16).astype(np.float32)
        stored = self.codebook[-1 << self.scheme.bits :]  # of a nested tensor the finest
        distinct = stored[: int(np.count_nonzero(stored != stored[-1])) + 1].view()
        distinct.flags.writeable = False
        return distinct

    @property
    def rotation(self) -> int:
        """Block of the rotation that inputs go through before they meet the codes (`kbit.tensor.rotation`); 0 for none."""
        return rotation_block(self.shape[-1]) if "rotate" in self.scheme.methods else 0

    def matrices(self) -> "list[QuantizedTensor]":
        """The tensor itself, or each matrix of a stack, in shared memory."""
        if len(self.shape) == 2:
            return [self]
        count, rows, cols = self.shape
        planes = self.weight.reshape(count, -1)
        return [
            QuantizedTensor(
                self.scheme,
                (rows, cols),
                planes[i],
                self.scale[i],
                None if self.super_scale is None else self.super_scale[i],
                None if self.zero_point is None else self.zero_point[i],
                self.codebook,
                {name: part[i] for name, part in self.extra.items()},
            )
            for i in range(count)
        ]

    def residual_levels(self) -> "list[QuantizedTensor]":
        """The residual levels of a matrix [rows, cols], each a tensor of its own, in shared memory and in the basis of the codes."""
        levels = enumerate(self.scheme.residual_schemes(), 1)
        return [QuantizedTensor.from_parts(level, self.shape, level_parts(self.extra, number)) for number, level in levels]

    @classmethod
    def stack(cls, matrices: "Sequence[QuantizedTensor]") -> "QuantizedTensor":
        """The stack of `matrices`, which are of one scheme and shape and share a fitted codebook."""
        each = [matrix.parts() for matrix in matrices]
        parts = {name: part if name == "weight_codebook" else np.stack([one[name] for one in each]) for name, part in each[0].items()}
        parts["weight"] = parts["weight"].reshape(-1)
        return cls.from_parts(matrices[0].scheme, (len(each), *matrices[0].shape), parts)

    def kept(self) -> npt.NDArray[np.bool_]:
        """Which weights have codes, of the logical shape: all, unless the tensor is pruned."""
        if "weight_mask" not in self.extra:
            return np.ones(self.shape, np.bool_)
        masks = [_kept_of_rows(matrix, 0, matrix.shape[0]) for matrix in self.matrices()]
        return masks[0] if len(self.shape) == 2 else np.stack(masks)

    def codes(self) -> Bytes:
        """Codes as indices into `levels`, uint8 of the logical shape; those of a trellis follow from its steps. A vector grid has one code
        for `dims` columns, ceil(cols / dims) a row; weights that are pruned have 0.
        """
        unpacked = [_codes_of_rows(matrix, 0, matrix.shape[0]) for matrix in self.matrices()]
        return unpacked[0] if len(self.shape) == 2 else np.stack(unpacked)

    def dequantize(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """The tensor as numbers of `dtype`: scale · (level − zero_point) and its parts in float32, rotated back, rounded to `dtype`."""
        if np.dtype(dtype).kind != "f":
            raise DTypeError(f"expected a floating-point dtype, got {np.dtype(dtype)}")
        out = np.empty(self.shape, dtype)
        for matrix, target in zip(self.matrices(), out.reshape(-1, *self.shape[-2:]), strict=True):
            _dequantize_into(matrix, target)
        return out

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts().values())

    @property
    def bpw(self) -> float:
        """Bits a weight of the bytes really stored: codes, scales, zero points, codebook and padding."""
        return self.size_bytes * 8 / float(np.prod(self.shape, dtype=np.float64))

    def bits_breakdown(self) -> dict[str, float]:
        """Bits a weight by what they are spent on; they add up to `bpw`. Padding is that of all parts."""
        matrices, rows, cols = logical_shape(self.shape)
        weights = matrices * rows * cols
        per_group = matrices * rows * BlockLayout.of(self.scheme, rows, cols).groups * 8
        used: dict[str, float] = {
            "codes": matrices * rows * self.scheme.spec.kept(code_cols(self.scheme, cols)) * self.scheme.bits,
            "scales": per_group * self.scale.itemsize + (0 if self.super_scale is None else self.super_scale.nbytes * 8),
            "zero_points": 0 if self.zero_point is None else per_group,
            "codebook": 0 if self.codebook is None else self.codebook.nbytes * 8,
        }
        for level in (level for matrix in self.matrices() for level in matrix.residual_levels()):
            for label, bits in level.bits_breakdown().items():
                used[label] = used.get(label, 0) + bits * rows * cols
        for name, part in self.extra.items():
            if name not in RESIDUAL_SUFFIXES:
                label = part_label(name)
                used[label] = used.get(label, 0) + part.nbytes * 8
        used["padding"] = self.size_bytes * 8 - sum(bits for label, bits in used.items() if label != "padding")
        return {name: bits / weights for name, bits in used.items()}

    def validate(self) -> None:
        """Refuse contents that no encoder writes; called before any kernel sees a tensor from a file.

        Raises:
            FormatError: a code or zero point beyond the levels, or padding that is not 0.
            NumericsError: a scale, super-scale or level that is not finite, or levels that do not ascend.
        """
        self._validate_codebook()
        self._validate_scales()
        n_levels = len(self.levels)
        if self.zero_point is not None and int(self.zero_point.max()) >= n_levels:
            raise FormatError(f"expected zero points below {n_levels}, got {int(self.zero_point.max())}")
        for index, matrix in enumerate(self.matrices()):
            if "weight_mask" in self.extra:
                validate_pruned(matrix.scheme, matrix.extra["weight_mask"], matrix.weight, *_sizes(matrix), n_levels)
            elif self.scheme.grid == "trellis":
                if not padding_is_zero(matrix.weight, *_sizes(matrix), self.scheme.bits):
                    raise FormatError(f"expected padding of 0 in matrix {index}, got other steps of the trellis")
            elif not check_codes(matrix.weight, *_code_sizes(matrix), self.scheme.bits, n_levels):
                raise FormatError(f"expected codes below {n_levels} and padding of 0 in matrix {index}, got others")
            for number, level in enumerate(matrix.residual_levels(), 1):
                _validate_level(level, number)
            validate_parts(matrix.extra, *_sizes(matrix))

    def _validate_codebook(self) -> None:
        if self.codebook is None:
            return
        if not np.isfinite(self.levels if self.codebook.ndim == 2 else self.codebook).all():
            raise NumericsError("expected a codebook of finite levels, got NaN or Inf")
        if self.codebook.ndim == 2:
            return
        coarser = [self.codebook[1 << bits : 2 << bits] for bits in range(1, self.scheme.bits)] if self.scheme.grid == "nested" else []
        if (
            any((np.diff(levels) < 0).any() for levels in (self.codebook[-1 << self.scheme.bits :], *coarser))
            or (np.diff(self.levels) <= 0).any()
        ):
            raise NumericsError("expected a codebook of ascending levels, of which only the last may repeat")

    def _validate_scales(self) -> None:
        if self.super_scale is not None and not (np.isfinite(self.super_scale) & (self.super_scale >= 0)).all():
            raise NumericsError("expected super-scales that are finite and not negative")
        values = decode_scale(self.scale, self.super_scale, self.scheme.scale_dtype)
        if not np.isfinite(values).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise NumericsError(f"expected finite scales, got {values[place]} at {list(place)} of {list(values.shape)}")
        _, rows, cols = logical_shape(self.shape)
        used = rows - (BlockLayout.of(self.scheme, rows, cols).tiles - 1) * self.scale.shape[-1]
        for part in (self.scale, self.zero_point):
            if part is not None and part[..., -1, :, used:].any():
                raise FormatError("expected 0 in the rows that pad the last tile of scales and zero points")


def _sizes(matrix: QuantizedTensor) -> tuple[int, int]:
    return matrix.shape[-2], matrix.shape[-1]


def _code_sizes(matrix: QuantizedTensor) -> tuple[int, int]:
    return matrix.shape[-2], code_cols(matrix.scheme, matrix.shape[-1])


def _kept_of_rows(matrix: QuantizedTensor, begin: int, end: int) -> npt.NDArray[np.bool_]:
    cols = matrix.shape[-1]
    return unpack_mask(matrix.extra["weight_mask"][mask_bytes(begin, cols) : mask_bytes(end, cols)], end - begin, cols)


def _codes_of_rows(matrix: QuantizedTensor, begin: int, end: int) -> Bytes:
    """Codes of rows begin…end, which are whole tiles but for the matrix's last."""
    if "weight_mask" in matrix.extra:
        stream = matrix.weight[begin // TILE_ROWS * tile_bytes(matrix.scheme, matrix.shape[-1]) :]
        return unpack_stream(stream, _kept_of_rows(matrix, begin, end), matrix.scheme)
    unpack_rows = unpack_indices if matrix.scheme.grid == "trellis" else unpack
    return unpack_rows(matrix.weight, *_code_sizes(matrix), matrix.scheme.bits, row_begin=begin, row_end=end)


def _validate_level(level: QuantizedTensor, number: int) -> None:
    try:
        level.validate()
    except (FormatError, NumericsError) as error:
        raise type(error)(f"residual level {number}: {error}") from None


def _dequantize_into(matrix: QuantizedTensor, out: Array) -> None:
    rows, _ = _sizes(matrix)
    residual = matrix.residual_levels()
    for begin in range(0, rows, _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, rows)
        values = _decoded_rows(matrix, begin, end)
        for level in residual:
            values += _decoded_rows(level, begin, end)
        add_parts(matrix.extra, values, begin)
        out[begin:end] = restore_rows(values) if matrix.rotation else values


def _decoded_rows(matrix: QuantizedTensor, begin: int, end: int) -> Float32:
    """What the codes of rows begin…end say, begin a multiple of 16."""
    shape, tiles, levels = (end - begin, matrix.shape[-1]), slice(begin // 16, -(-end // 16)), matrix.levels
    scale = decode_scale(matrix.scale[tiles], _supers_of(matrix, tiles), matrix.scheme.scale_dtype)
    values = levels[_codes_of_rows(matrix, begin, end)]
    if levels.ndim == 2:
        values = values.reshape(end - begin, -1)[:, : shape[1]]
    if matrix.zero_point is not None:
        values -= expand_groups(matrix.zero_point[tiles], matrix.scheme, shape)
    values *= expand_groups(scale, matrix.scheme, shape)
    if "weight_mask" in matrix.extra:
        values[~_kept_of_rows(matrix, begin, end)] = 0
    return values


def _supers_of(matrix: QuantizedTensor, tiles: slice) -> Float32 | None:
    return matrix.super_scale if matrix.super_scale is None or matrix.scheme.scale_dtype == "e4m3" else matrix.super_scale[tiles]


def _check_parts(scheme: Scheme, shape: tuple[int, ...], parts: Mapping[str, Array]) -> None:
    if not isinstance(scheme, Scheme):
        raise SchemeError(f"expected a Scheme, got {type(scheme).__name__}")
    expected = part_shapes(scheme, shape)
    if set(parts) != set(expected):
        raise ShapeError(f"expected the parts {', '.join(expected)} for {scheme.text}, got {', '.join(sorted(parts)) or 'none'}")
    for name, (part_shape, dtype) in expected.items():
        part = parts[name]
        if not isinstance(part, np.ndarray) or part.dtype != dtype:
            raise DTypeError(f"expected {name} of {dtype}, got {getattr(part, 'dtype', type(part).__name__)}")
        if part.shape != part_shape:
            raise ShapeError(f"expected {name} of shape {list(part_shape)}, got {list(part.shape)}")
