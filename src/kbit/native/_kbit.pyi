from typing import overload

import numpy as np
from numpy.typing import NDArray

def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> bool: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
def memory_roof(size_bytes: int, threads: int) -> float: ...
def int8_roof(threads: int) -> float: ...

class PackedMatrix:
    @overload
    def __init__(
        self,
        rows: int,
        cols: int,
        bits: int,
        group_size: int,
        scale_kind: int,
        weight: NDArray[np.uint8],
        scale: NDArray[np.uint8],
        super_scale: NDArray[np.float32],
        zero_point: NDArray[np.uint8],
        levels: NDArray[np.float32],
        dims: int = 1,
        rotation: int = 0,
        trellis: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        rows: int,
        cols: int,
        bits: int,
        group_size: int,
        scale_kind: int,
        weight: NDArray[np.uint8],
        scale: NDArray[np.uint8],
        super_scale: NDArray[np.float32],
        zero_point: NDArray[np.uint8],
        levels: NDArray[np.float32],
        rotation: int,
        mask: NDArray[np.uint8],
        tile_bytes: int,
        inserted: int,
        zero: int,
    ) -> None: ...
    def set_outliers(self, counts: NDArray[np.uint8], places: NDArray[np.uint8], values: NDArray[np.uint8]) -> None: ...
    def set_columns(self, index: NDArray[np.uint8], values: NDArray[np.uint8]) -> None: ...
    def set_low_rank(self, left: NDArray[np.uint8], right: NDArray[np.uint8], scale: NDArray[np.uint8]) -> None: ...
    def set_residual(self, levels: list[PackedMatrix]) -> None: ...
    def matmul(self, x: int, y: int, tokens: int, exact: bool, threads: int) -> None: ...
    def gather_rows(self, ids: int, count: int, out: int, threads: int) -> int: ...
    def activation_group(self) -> int: ...
    def variant_possible(self, variant: int) -> bool: ...
    def select_variant(self, token_class: int, variant: int) -> bool: ...
    def integer_codebook(self) -> dict[str, object]: ...

NormArgs = tuple[int, int | None, int | None, float]
HeadsArgs = tuple[int, int, int]
RelativeArgs = tuple[int | None, int, int]
PartArgs = tuple[int, int, int, int | None, int]

class Cache:
    def __init__(self, layers: int, kv_heads: int, head_dim: int, cache_format: int, pages: int) -> None: ...
    def create(self) -> int: ...
    def alive(self, sequence: int) -> bool: ...
    def length(self, sequence: int) -> int: ...
    def fork(self, sequence: int, length: int) -> int: ...
    def truncate(self, sequence: int, length: int) -> None: ...
    def release(self, sequence: int) -> None: ...
    def reserve(self, sequence: int, count: int) -> bool: ...
    def free_pages(self) -> int: ...
    def page_bytes(self) -> int: ...

class Program:
    def __init__(self, max_rows: int) -> None: ...
    def packed(self, matrix: PackedMatrix) -> int: ...
    def dense(self, data: NDArray[np.uint8], dense_type: int, rows: int, cols: int) -> int: ...
    def vector(self, values: NDArray[np.float32]) -> int: ...
    def buffer(self, width: int) -> int: ...
    def embed(self, table: int, out: int, source: int, scale: float, offset: int, accumulate: bool) -> None: ...
    def begin(self, table: int, out: int) -> None: ...
    def normalize(self, source: int, out: int, norm: NormArgs, accumulate: bool) -> None: ...
    def linear(
        self,
        source: int,
        norm: NormArgs,
        parts: list[PartArgs],
        out: int,
        activation: int,
        gated: bool,
        accumulate: bool,
        scale: float,
        softcap: float,
    ) -> None: ...
    def attention(
        self,
        layer: int,
        q: HeadsArgs,
        k: HeadsArgs,
        v: HeadsArgs,
        out: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        softcap: float,
        causal: bool,
        frequencies: int | None,
        interleaved: bool,
        factor: float,
        q_norm: NormArgs,
        k_norm: NormArgs,
        window: int,
        slopes: int | None,
        relative: RelativeArgs,
    ) -> None: ...
    def remember(self, layer: int, k: HeadsArgs, v: HeadsArgs, kv_heads: int, head_dim: int) -> None: ...
    def cross_attention(self, layer: int, q: HeadsArgs, out: int, heads: int, kv_heads: int, head_dim: int, scale: float) -> None: ...
    def experts(
        self,
        source: int,
        out: int,
        norm: NormArgs,
        router: int,
        gate_up: list[int],
        down: list[int],
        top_k: int,
        normalize: bool,
        accumulate: bool,
        activation: int,
    ) -> None: ...
    def select(self, source: int, out: int) -> None: ...
    def finish(self, source: int, result: int, threads: int) -> None: ...
    def workspace_bytes(self) -> int: ...
    def run(
        self,
        cache: Cache,
        memory: Cache | None,
        tokens: int,
        numbers: int,
        rows: int,
        segments: int,
        segment_count: int,
        wanted: int,
        wanted_count: int,
        result: int,
        exact: bool,
        threads: int,
    ) -> None: ...

def pack(codes: NDArray[np.uint8], rows: int, cols: int, bits: int, planes: NDArray[np.uint8], threads: int) -> None: ...
def unpack(
    planes: NDArray[np.uint8], rows: int, cols: int, bits: int, row_begin: int, row_end: int, codes: NDArray[np.uint8], threads: int
) -> None: ...
def check_codes(planes: NDArray[np.uint8], rows: int, cols: int, bits: int, n_levels: int, threads: int) -> bool: ...
def rotate_rows(x: NDArray[np.float32], block: int, back: bool, out: NDArray[np.float32], threads: int) -> None: ...
def scan(
    weights: NDArray[np.uint8], weight_type: int, rows: int, cols: int, group_size: int, zero_points: bool, threads: int
) -> tuple[int, float]: ...
def encode(
    weights: NDArray[np.uint8],
    weight_type: int,
    rows: int,
    cols: int,
    importance: NDArray[np.float32],
    importance_stride: int,
    levels: NDArray[np.float32],
    bits: int,
    anchor: float,
    mirrored: bool,
    group_size: int,
    search: int,
    scale_kind: int,
    matrix_super_scale: float,
    planes: NDArray[np.uint8],
    scale: NDArray[np.uint8],
    tile_super_scale: NDArray[np.float32],
    zero_point: NDArray[np.uint8],
    threads: int,
) -> int: ...
def trellis_multiplier(bits: int) -> int: ...
def trellis_scales(
    bits: int,
    levels: NDArray[np.float32],
    weights: NDArray[np.float32],
    importance: NDArray[np.float32],
    importance_stride: int,
    rows: int,
    cols: int,
    group_size: int,
    parts: NDArray[np.float32],
    refits: int,
    scale_kind: int,
    super_scale: float,
    stored: NDArray[np.uint16],
    value: NDArray[np.float32],
    threads: int,
) -> None: ...
def trellis_path(
    bits: int,
    levels: NDArray[np.float32],
    weights: NDArray[np.float32],
    importance: NDArray[np.float32],
    importance_stride: int,
    rows: int,
    cols: int,
    group_size: int,
    value: NDArray[np.float32],
    steps: NDArray[np.uint8],
    threads: int,
) -> None: ...
def trellis_compensate(
    bits: int,
    levels: NDArray[np.float32],
    weights: NDArray[np.float32],
    carried: NDArray[np.float32],
    factor: NDArray[np.float32],
    scale: NDArray[np.float32],
    rows: int,
    cols: int,
    keep: int,
    state: NDArray[np.uint16],
    steps: NDArray[np.uint8],
    error: NDArray[np.float32],
    threads: int,
) -> None: ...
