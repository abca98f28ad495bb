"""Nearest-level encoding: each weight takes the level that its group's scale brings closest.

    scale   absmax: the group's element of largest magnitude (the positive one of a tie) lands on the level of largest magnitude;
            mse: the scale of a fixed set, refined by least squares, with the smallest (importance-weighted) squared error;
            asymmetric: the range that holds the weights and 0 spans the levels, and zero_point = round(−min / scale)
    code    chosen for the scale as stored, not as computed: the number of midpoints between levels below w / scale + zero_point

`csrc/include/kbit/encode.h` states the arithmetic, `kbit.encoders.reference` repeats it in numpy, bit for bit. Error bounds, for
levels whose widest gap is d and whose levels end at a and b: |w − decoded| ≤ |scale|·d/2 for a weight within scale·[a, b] (rounding
of float32 apart), else its distance to the nearer end. Scales round and saturate as `kbit.tensor.scales` says, so an fp16 group
whose absmax scale is below 2^−25 decodes to 0, and one beyond 65504 has its largest weights cut to 65504 times the last level.

`encode` takes a tensor in memory. `NearestEncoder` takes it in pieces of rows and returns pieces of the stored parts, so that
a tensor larger than memory goes from file to file; the bytes are the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.core.methods import refuse_uncalibrated
from kbit.core.scheme import Scheme
from kbit.encoders.hqq import half_quadratic
from kbit.encoders.inputs import Importance, Weights, as_float32, as_importance, as_weights, finite_float32, given_weights, native_rows
from kbit.encoders.sample import LevelSample
from kbit.encoders.trellis import encode_trellis
from kbit.grids import is_data_dependent, levels_for
from kbit.grids.nested import coarse_levels
from kbit.grids.sample import WeightSample
from kbit.native import encoding as native
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, code_cols, logical_shape
from kbit.tensor.packing import plane_bytes
from kbit.tensor.quantized import QuantizedTensor, pad_codebook, part_shapes, stored_vectors
from kbit.tensor.rotation import rotate_rows
from kbit.tensor.scales import scale_anchor, super_scale_for

__all__ = ["NearestEncoder", "Piece", "Segment", "encode", "encode_pieces", "encoder_for"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_WEIGHTS_AT_ONCE = 1 << 23


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A piece of a stored part: `data` (uint8) belongs at byte `offset` of part `part`."""

    part: str
    offset: int
    data: Bytes


class Sample(Protocol):
    """What is kept of the rows for fitted levels."""

    def add(self, matrix: int, row_begin: int, weights: Array, importance: Importance | None) -> None:
        """Look at rows [row_begin, row_begin + n) of a matrix."""


class Piece(NamedTuple):
    """Rows [row_begin, row_begin + n) of matrix `matrix`: `rows` [n, cols], and their importance [cols] or [n, cols]."""

    matrix: int
    row_begin: int
    rows: Weights
    importance: Importance | None = None


class NearestEncoder:
    """Encodes one tensor piece by piece.

    Feed all rows to `prepare` first if `needs_prepare` (fitted grids and e4m3 scales look at the whole tensor), then each piece to
    `encode_rows`; pieces are rows of one matrix that begin at a multiple of 16 and end at one or at the last row, in any order.
    Every segment that `encode_rows` and `constant_segments` return is written at its place of the parts that `part_shapes` lists.

    Attributes:
        shape: logical shape of the tensor.
        scheme: what the tensor is recorded as: the scheme asked for, with one scale a row where its group would outreach the row.
        name: what errors call the tensor.
        threads: threads of the native encoder.
    """

    def __init__(
        self, shape: tuple[int, ...], scheme: Scheme, *, name: str = "tensor", levels: Float32 | None = None, threads: int = 0
    ) -> None:
        """Encoder of a tensor of logical `shape`.

        Args:
            shape: (rows, cols) or (matrices, rows, cols).
            scheme: the recipe; a group longer than a row stands for one scale a row.
            name: what errors call the tensor.
            levels: levels of a fitted grid that are known already (ascending, at most 2^bits); fixed grids take none.
            threads: threads to use, 0 for the default; results do not depend on it.

        Raises:
            SchemeError: the scheme leaves tensors in 16 bits or compensates errors (`kbit.encoders.gptq`), or levels were given to a
                fixed grid.
            ShapeError: a shape that is not a matrix or a stack, or without elements.
        """
        self.shape, self.name, self.threads = tuple(shape), name, threads
        if "gptq" in scheme.methods:
            refuse_uncalibrated(scheme.methods, name)
        if scheme.parts:
            raise SchemeError(f"{name}: parts beside the codes look at the whole tensor: expected encode() for {scheme.text!r}")
        self._fitted = is_data_dependent(scheme)
        if levels is not None and not self._fitted:
            raise SchemeError(f"{name}: the levels of {scheme.text} follow from the scheme and cannot be given")
        if levels is not None and scheme.grid == "nested":
            raise SchemeError(f"{name}: the levels of {scheme.text} are fitted together with those of fewer bits and cannot be given")
        try:
            self._matrices, rows, cols = logical_shape(self.shape)
        except ShapeError as error:
            raise ShapeError(f"{name}: {error}") from None
        self.scheme = scheme.for_row(cols)
        self._layout = BlockLayout.of(self.scheme, rows, cols)
        self._code_cols = code_cols(self.scheme, cols)
        if levels is not None:
            levels = _checked_levels(levels, scheme, name)
        self._levels = levels if self._fitted else levels_for(self.scheme)
        self._sample = self._new_sample() if self._levels is None else None
        self._spread = np.zeros(self._matrices)
        self._prepared_rows = 0

    @property
    def needs_prepare(self) -> bool:
        """True if all rows must pass through `prepare` before the first `encode_rows`."""
        return self._sample is not None or self.scheme.scale_dtype == "e4m3"

    @property
    def levels(self) -> Float32:
        """Levels in use, ascending float32.

        Raises:
            ShapeError: they are fitted to the tensor, and not all of it was prepared.
        """
        if self._levels is None:
            self._check_prepared()
            self._levels = self._fit_levels()
        return self._levels

    def _new_sample(self) -> Sample:
        return LevelSample(self._matrices, self._layout)

    def _fit_levels(self) -> Float32:
        assert isinstance(self._sample, LevelSample)
        return levels_for(self.scheme, *self._sample.collected())

    def prepare(self, row_begin: int, weights: Weights, *, matrix: int = 0, importance: Array | None = None) -> None:
        """Look at rows [row_begin, row_begin + n) of a matrix; each row once.

        Raises:
            NumericsError: a NaN or Inf, with the tensor's name and the place of the first.
        """
        rows = self._checked_rows(row_begin, weights, matrix)
        first_bad, spread = native.scan(rows, self._layout.group_size, zero_points=not self.scheme.symmetric, threads=self.threads)
        self._refuse_non_finite(first_bad, rows, row_begin, matrix)
        self._spread[matrix] = max(self._spread[matrix], spread)
        if self._sample is not None:
            self._sample.add(matrix, row_begin, rows, self._checked_importance(importance, rows.shape))
        self._prepared_rows += len(rows)

    def encode_rows(self, row_begin: int, weights: Weights, *, matrix: int = 0, importance: Array | None = None) -> list[Segment]:
        """Stored form of rows [row_begin, row_begin + n) of a matrix.

        Args:
            row_begin: first row, a multiple of 16.
            weights: [n, cols]; n is a multiple of 16 unless the last row is among them.
            matrix: which of a stack.
            importance: weights of the squared error, [cols] or [n, cols], used by the mse search; of rotated inputs under ``rotate``.

        Raises:
            DTypeError, ShapeError: pieces that do not fit.
            NumericsError: a NaN or Inf, with the tensor's name and the place of the first.
        """
        paths = self.scheme.grid == "trellis"
        rows = (self._finite_rows if paths else self._checked_rows)(row_begin, weights, matrix)
        given = self._checked_importance(importance, rows.shape)
        unit = float(self._matrix_super_scales()[matrix]) if self.scheme.scale_dtype == "e4m3" else 0.0
        if paths:
            given = None if given is None else np.ascontiguousarray(given)
            encoded = encode_trellis(as_float32(rows), self.scheme, self.levels, importance=given, super_scale=unit, threads=self.threads)
        else:
            options = self._options()
            first_bad, encoded = native.encode(rows, options, importance=given, matrix_super_scale=unit, threads=self.threads)
            self._refuse_non_finite(first_bad, rows, row_begin, matrix)
            if "hqq" in self.scheme.methods:
                encoded = half_quadratic(as_float32(rows), encoded, options, importance=given, matrix_super_scale=unit)
        return self._segments(encoded, matrix, row_begin)

    def constant_segments(self) -> list[Segment]:
        """What does not belong to any rows: the codebook of a fitted grid and the super-scales of e4m3."""
        constants: dict[str, Array] = {}
        if self.scheme.scale_dtype == "e4m3":
            constants["weight_super_scale"] = self._matrix_super_scales()
        if self._fitted:
            constants["weight_codebook"] = self._codebook()
        return [Segment(part, 0, values.reshape(-1).view(np.uint8)) for part, values in constants.items()]

    def _codebook(self) -> Array:
        if self.levels.ndim == 2:
            return stored_vectors(self.levels)
        levels = pad_codebook(self.levels, self.scheme.bits)
        if self.scheme.grid != "nested":
            return levels
        assert isinstance(self._sample, LevelSample)
        return np.concatenate([coarse_levels(levels, self.scheme.bits, WeightSample.of(*self._sample.collected())), levels])

    def _options(self) -> native.EncodeOptions:
        anchor, mirrored = scale_anchor(self.levels)
        scheme = self.scheme
        return native.EncodeOptions(
            levels=np.ascontiguousarray(self.levels, np.float32),
            bits=scheme.bits,
            group_size=self._layout.group_size,
            anchor=anchor,
            mirrored=mirrored,
            zero_points=not scheme.symmetric,
            scale_search=scheme.scale_search,
            scale_dtype=scheme.scale_dtype,
        )

    def _matrix_super_scales(self) -> Float32:
        self._check_prepared()
        anchor, _ = scale_anchor(self.levels)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            largest = np.where(anchor == 0, 0.0, self._spread / abs(anchor))
            return super_scale_for(largest.astype(np.float32), self.scheme.scale_dtype, anchor)

    def _check_prepared(self) -> None:
        expected = self._matrices * self._layout.rows
        if self._prepared_rows != expected:
            raise ShapeError(f"{self.name}: expected all {expected} rows to be prepared before encoding, got {self._prepared_rows}")

    def _checked_rows(self, row_begin: int, weights: Weights, matrix: int) -> Array:
        array = as_weights(weights, self.name)
        layout = self._layout
        if not 0 <= matrix < self._matrices:
            raise ShapeError(f"{self.name}: expected a matrix of 0…{self._matrices - 1}, got {matrix}")
        if array.ndim != 2 or array.shape[1] != layout.cols or not len(array):
            raise ShapeError(f"{self.name}: expected rows of {layout.cols} columns, got shape {list(array.shape)}")
        end = row_begin + len(array)
        if row_begin < 0 or row_begin % TILE_ROWS or end > layout.rows or (end % TILE_ROWS and end != layout.rows):
            raise ShapeError(f"{self.name}: expected rows from a multiple of {TILE_ROWS} to one or to {layout.rows}, got {row_begin}…{end}")
        rows = native_rows(array)
        return self._rotated(rows, row_begin, matrix) if "rotate" in self.scheme.methods else rows

    def _finite_rows(self, row_begin: int, weights: Weights, matrix: int) -> Array:
        """The same for encoders that do not look for NaN and Inf themselves."""
        rows = self._checked_rows(row_begin, weights, matrix)
        first_bad, _ = native.scan(rows, self._layout.group_size, threads=self.threads)
        self._refuse_non_finite(first_bad, rows, row_begin, matrix)
        return rows

    def _rotated(self, rows: Array, row_begin: int, matrix: int) -> Float32:
        values = as_float32(rows)
        finite = np.isfinite(values)
        if not finite.all():  # a rotation would spread it over its block
            self._refuse_non_finite(int(np.argmin(finite)), rows, row_begin, matrix)
        return rotate_rows(values, threads=self.threads)

    def _checked_importance(self, importance: Array | None, shape: tuple[int, ...]) -> Importance | None:
        if importance is None:
            refuse_uncalibrated(self.scheme.methods, self.name)
        return as_importance(importance, shape, self.name)

    def _refuse_non_finite(self, first_bad: int, rows: Array, row_begin: int, matrix: int) -> None:
        if first_bad < 0:
            return
        row, col = divmod(first_bad, self._layout.cols)
        value = float(as_float32(rows[row, col : col + 1])[0])
        place = [matrix, row_begin + row, col] if len(self.shape) == 3 else [row_begin + row, col]
        raise NumericsError(f"{self.name}: expected finite weights, got {value} at {place}")

    def _segments(self, encoded: native.EncodedMatrix, matrix: int, row_begin: int) -> list[Segment]:
        layout, bits = self._layout, self.scheme.bits
        tile, tiles = row_begin // TILE_ROWS, encoded.scale.shape[0]
        segments, base, done = [], matrix * native.packed_bytes(layout.rows, self._code_cols, bits), 0
        whole_bytes = (native.packed_bytes(layout.rows, self._code_cols, bits),)  # a trellis has no planes
        for whole in whole_bytes if self.scheme.grid == "trellis" else plane_bytes(layout.rows, self._code_cols, bits):
            tile_bytes = whole // layout.tiles
            segments.append(Segment("weight", base + tile * tile_bytes, encoded.planes[done : done + tiles * tile_bytes]))
            base, done = base + whole, done + tiles * tile_bytes
        for part, values in (
            ("weight_scale", encoded.scale),
            ("weight_super_scale", encoded.super_scale),
            ("weight_zero", encoded.zero_point),
        ):
            if values is not None:
                offset = (matrix * layout.tiles + tile) * values[:1].nbytes
                segments.append(Segment(part, offset, values.reshape(-1).view(np.uint8)))
        return segments


def encoder_for(
    shape: tuple[int, ...], scheme: Scheme, *, name: str = "tensor", levels: Float32 | None = None, threads: int = 0
) -> NearestEncoder:
    """The encoder of the scheme's grid; arguments and errors as those of `NearestEncoder`."""
    if scheme.grid == "nested" and scheme.scale_search == "mse" and "hqq" not in scheme.methods:
        from kbit.encoders.nested_nearest import NestedEncoder

        return NestedEncoder(shape, scheme, name=name, levels=levels, threads=threads)
    if scheme.dims == 1:
        return NearestEncoder(shape, scheme, name=name, levels=levels, threads=threads)
    from kbit.encoders.vector_nearest import VectorEncoder

    return VectorEncoder(shape, scheme, name=name, levels=levels, threads=threads)


def encode(
    weights: Weights,
    scheme: Scheme,
    *,
    name: str = "tensor",
    importance: Array | None = None,
    levels: Float32 | None = None,
    threads: int = 0,
) -> QuantizedTensor:
    """Encode a matrix or a stack of matrices.

    Args:
        weights: [rows, cols] or [matrices, rows, cols] of float32, float16 or `BFloat16`; any strides and byte order.
        scheme: the recipe, not "16"; the result's own says one scale a row (``g-1``) where a group would outreach the row.
        name: what errors call the tensor.
        importance: weights of the squared error, finite and not negative: [cols], or what broadcasts to the shape of `weights`. The
            mse search and fitted grids minimise the error so weighted; absmax scales on fixed grids do not depend on it. Where the
            scheme rotates, it is that of the rotated inputs.
        levels: levels of a fitted grid that are known already.
        threads: threads to use, 0 for the default; the result does not depend on it.

    Raises:
        DTypeError, ShapeError: weights, importance or levels that are not as stated.
        NumericsError: a NaN or Inf among the weights, with `name` and the place of the first.
        SchemeError: a scheme that has no codes, or methods that need what is not given here.
    """
    array = as_weights(weights, name)
    if scheme.parts:
        from kbit.encoders.with_parts import encode_with_parts

        if levels is not None:
            raise SchemeError(f"{name}: levels cannot be given to a scheme with parts, got {scheme.text!r}")
        scheme = scheme.for_row(array.shape[-1])
        if "rotate" in scheme.methods:
            array = rotate_rows(finite_float32(array, name), threads=threads)
        return encode_with_parts(array, scheme, name=name, importance=importance, threads=threads)
    encoder = encoder_for(array.shape, scheme, name=name, levels=levels, threads=threads)
    return encode_pieces(encoder, _Pieces(array, as_importance(importance, array.shape, name)))


def encode_pieces(encoder: NearestEncoder, pieces: Iterable[Piece]) -> QuantizedTensor:
    """The whole tensor from its pieces, which are gone through a second time if `encoder.needs_prepare`.

    Raises:
        DTypeError, ShapeError, NumericsError: as `NearestEncoder.prepare` and `encode_rows`.
    """
    if encoder.needs_prepare:
        for matrix, row_begin, rows, importance in pieces:
            encoder.prepare(row_begin, rows, matrix=matrix, importance=importance)
    parts = {part: np.empty(shape, dtype) for part, (shape, dtype) in part_shapes(encoder.scheme, encoder.shape).items()}
    _write(parts, encoder.constant_segments())
    for matrix, row_begin, rows, importance in pieces:
        _write(parts, encoder.encode_rows(row_begin, rows, matrix=matrix, importance=importance))
    return QuantizedTensor.from_parts(encoder.scheme, encoder.shape, parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """A tensor in pieces of whole tiles, so that what has to be copied is copied a piece at a time."""

    weights: Array
    importance: Importance | None

    def __iter__(self) -> Iterator[Piece]:
        _, rows, cols = logical_shape(self.weights.shape)
        step = max(_WEIGHTS_AT_ONCE // cols // TILE_ROWS, 1) * TILE_ROWS
        stack = self.weights if self.weights.ndim == 3 else self.weights[None]
        for matrix, weights in enumerate(stack):
            for begin in range(0, rows, step):
                piece = weights[begin : begin + step]
                yield Piece(matrix, begin, given_weights(piece), self._importance(matrix, begin, begin + step))

    def _importance(self, matrix: int, begin: int, end: int) -> Importance | None:
        if self.importance is None or self.importance.ndim == 1:
            return self.importance
        return self.importance[matrix, begin:end] if self.importance.ndim == 3 else self.importance[begin:end]


def _write(parts: dict[str, Array], segments: list[Segment]) -> None:
    for segment in segments:
        parts[segment.part].reshape(-1).view(np.uint8)[segment.offset : segment.offset + segment.data.size] = segment.data


def _checked_levels(levels: Float32, scheme: Scheme, name: str) -> Float32:
    if not isinstance(levels, np.ndarray) or levels.dtype != np.float32:
        raise DTypeError(f"{name}: expected levels of float32, got {getattr(levels, 'dtype', type(levels).__name__)}")
    if scheme.dims > 1:
        if levels.shape != (1 << scheme.bits, scheme.dims):
            raise ShapeError(f"{name}: expected a codebook [{1 << scheme.bits}, {scheme.dims}], got shape {list(levels.shape)}")
        if not np.isfinite(levels).all():
            raise NumericsError(f"{name}: expected a finite codebook")
        return stored_vectors(levels).view(np.float16).astype(np.float32)
    if levels.ndim != 1 or not 1 <= levels.size <= 1 << scheme.bits:
        raise ShapeError(f"{name}: expected 1…{1 << scheme.bits} levels, got shape {list(levels.shape)}")
    if not np.isfinite(levels).all() or (np.diff(levels) <= 0).any():
        raise NumericsError(f"{name}: expected finite levels in ascending order")
    return np.ascontiguousarray(levels)
