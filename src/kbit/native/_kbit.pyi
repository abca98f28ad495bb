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
    ) -> None: ...
    def matmul(self, x: int, y: int, tokens: int, exact: bool, threads: int) -> None: ...
    def gather_rows(self, ids: int, count: int, out: int, threads: int) -> int: ...
    def integer_codebook(self) -> dict[str, object]: ...

def pack(codes: NDArray[np.uint8], rows: int, cols: int, bits: int, planes: NDArray[np.uint8], threads: int) -> None: ...
def unpack(
    planes: NDArray[np.uint8], rows: int, cols: int, bits: int, row_begin: int, row_end: int, codes: NDArray[np.uint8], threads: int
) -> None: ...
def check_codes(planes: NDArray[np.uint8], rows: int, cols: int, bits: int, n_levels: int, threads: int) -> bool: ...
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
