"""Weights as a type of llama.cpp keeps them: encoded by ggml under an importance matrix, decoded by gguf.

    ggml_types.py WEIGHTS.npz TYPE DECODED.npz

`WEIGHTS` has float32 matrices [rows, cols] by name, and for each ``NAME/importance``, the mean square of its inputs.
Prints the bits a weight.
"""

import ctypes
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
IMPORTANCE = "/importance"


def main(source: Path, kind: str, destination: Path) -> None:
    """Decoded matrices of a file, into another."""
    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    decoded = {}
    with np.load(source) as arrays:
        for name in (name for name in arrays if not name.endswith(IMPORTANCE)):
            weights, importance = arrays[name], arrays[name + IMPORTANCE]
            if weights.shape[1] % block:
                raise SystemExit(f"{name}: rows of {weights.shape[1]} are no multiple of {block}, a block of {kind}")
            decoded[name] = gguf.quants.dequantize(encoded(ggml, weights, importance, int(number), block, size), number)
    np.savez(destination, **decoded)
    print(8 * size / block)


def encoded(ggml: ctypes.CDLL, weights: Float32, importance: Float32, number: int, block: int, size: int) -> NDArray[np.uint8]:
    """Bytes [rows, bytes a row] of a matrix."""
    rows, cols = weights.shape
    weights, importance = (np.ascontiguousarray(array, np.float32) for array in (weights, importance))
    out = np.zeros((rows, cols // block * size), np.uint8)
    lengths = (ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(cols))
    places = [ctypes.c_void_p(array.ctypes.data) for array in (weights, out, importance)]
    written = ggml.ggml_quantize_chunk(ctypes.c_int(number), places[0], places[1], *lengths, places[2])
    assert written == out.nbytes, (written, out.nbytes)
    return out


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
