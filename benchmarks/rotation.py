"""What rotating inputs costs: the transform alone, and a decoding or prefilling step of a 1B Llama's layers with and without it.

    python benchmarks/rotation.py [--bits 2 3 4] [--threads 1 2] [--rounds 9] [--json benchmarks/results/rotation.json]

Both programs read the same packed weights from memory, all layers' matrices one after another as a step does (query, key and value in one
operation; gate and up in another), without attention. Runs are interleaved, and a share is the median over rounds of (with / without − 1).
The transform is timed on one row in cache, for every instruction set that runs here.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import machine
from kbit import native
from kbit.core.rotation import rotation_block
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import PreparedMatrix
from kbit.native import _kbit
from kbit.tensor.quantized import QuantizedTensor

LAYERS, SIZE, KEYS, INNER = 16, 2048, 512, 8192
SHAPES = {"q": (SIZE, SIZE), "k": (KEYS, SIZE), "v": (KEYS, SIZE), "o": (SIZE, SIZE)} | {
    "gate": (INNER, SIZE), "up": (INNER, SIZE), "down": (SIZE, INNER)
}  # fmt: skip
COLS = [768, 2048, 4096, 5632, 8192, 11008, 14336]
MAX_THREADS = 16
NO_NORM = (0, None, None, 0.0)


class Layers:
    """The linear operations of all layers over `weights`; matrices named in `rotated` rotate their input."""

    def __init__(self, weights: list[dict[str, QuantizedTensor]], tokens: int, *, rotated: Set[str]) -> None:
        self.tokens = tokens
        self.program = _kbit.Program(tokens)
        x, qkv, mixed, inner = (self.program.buffer(width) for width in (SIZE, SIZE + 2 * KEYS, SIZE, INNER))
        out = self.program.buffer(SIZE)
        row = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
        table = self.program.dense(row.view(np.uint8), 0, 1, SIZE)
        for buffer in (x, mixed):
            self.program.embed(table, buffer, 0, 1.0, 0, False)
        for layer in weights:
            numbers = {name: self._matrix(tensor, rotated=name in rotated) for name, tensor in layer.items()}
            part = {name: (numbers[name], 0, SHAPES[name][0], None, 0) for name in numbers}
            places = {"q": 0, "k": SIZE, "v": SIZE + KEYS}
            self._linear(x, [(*part[name][:4], place) for name, place in places.items()], qkv)
            self._linear(mixed, [part["o"]], out)
            self.program.linear(x, NO_NORM, [part["gate"], part["up"]], inner, 5, True, False, 1e-3, 0.0)
            self._linear(inner, [part["down"]], out)
        self.result = np.empty((tokens, SIZE), np.float32)
        self.program.finish(-1, out, MAX_THREADS)
        self.inputs = np.zeros(tokens, np.int32), np.array([[0, 0, tokens, -1]], np.int64)

    def _matrix(self, tensor: QuantizedTensor, *, rotated: bool) -> int:
        scheme = replace(tensor.scheme, methods=("rotate",)) if rotated else tensor.scheme
        return self.program.packed(PreparedMatrix(replace(tensor, scheme=scheme)).native)

    def _linear(self, source: int, parts: list[Any], out: int) -> None:
        self.program.linear(source, NO_NORM, parts, out, 0, False, False, 1.0, 0.0)

    def seconds(self, threads: int) -> float:
        """Time of one step."""
        tokens, segments = self.inputs
        cache = _kbit.Cache(1, 1, 16, 0, 1)
        cache.create()
        started = time.perf_counter()
        self.program.run(
            cache, None, tokens.ctypes.data, 0, self.tokens, segments.ctypes.data, 1, 0, 0, self.result.ctypes.data, False, threads
        )
        return time.perf_counter() - started


def main() -> int:
    options = arguments()
    facts = machine.print_header("rotation: the transform alone, and in the layers of a 1B Llama")
    transform = transforms(options.rounds)
    rows: list[dict[str, Any]] = []
    for bits in options.bits:
        rows += steps(bits, options)
    machine.save(options.json, {"benchmark": "rotation", "machine": facts, "transform_us": transform, "steps": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def transforms(rounds: int) -> dict[str, dict[int, float]]:
    """Instruction set → columns → microseconds of one row on one thread."""
    found: dict[str, dict[int, float]] = {}
    before = native.isa()
    for isa in native.available_isas():
        native.set_isa(isa)
        found[isa] = {cols: round(1e6 * row_seconds(cols, rounds), 3) for cols in COLS}
        print(f"{isa:>8}  " + "  ".join(f"{cols}: {us:.2f} µs" for cols, us in found[isa].items()), flush=True)
    native.set_isa(before)
    return found


def row_seconds(cols: int, rounds: int) -> float:
    few, many = (np.ones((count, cols), np.float32) for count in (1, 1 + max(1, (1 << 15) // cols)))
    out, block = np.empty_like(many), rotation_block(cols)

    def run(x: np.ndarray) -> Callable[[], object]:
        return lambda: _kbit.rotate_rows(x, block, False, out[: len(x)], 1)

    per_row = []
    for _ in range(rounds):
        times = [min(clock(run(x)) for _ in range(20)) for x in (few, many)]
        per_row.append((times[1] - times[0]) / (len(many) - 1))
    return statistics.median(per_row)


def clock(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def steps(bits: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    scheme = Scheme.parse(f"int{bits}:g64")
    draw = np.random.default_rng(0)
    first = {name: encode(draw.standard_normal(shape, np.float32), scheme) for name, shape in SHAPES.items()}
    weights = [{name: replace(one, weight=one.weight.copy(), scale=one.scale.copy()) for name, one in first.items()} for _ in range(LAYERS)]
    rows = []
    for tokens in options.tokens:
        plain, rotated = (Layers(weights, tokens, rotated=rotated) for rotated in (set(), set(SHAPES)))
        for threads in options.threads:
            pairs = [(plain.seconds(threads), rotated.seconds(threads)) for _ in range(options.rounds + 1)][1:]
            share = statistics.median(after / before - 1 for before, after in pairs)
            ms, rotated_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append({"bits": bits, "tokens": tokens, "threads": threads, "ms": ms, "rotated_ms": rotated_ms, "share": share})
            print(f"int{bits}  {tokens:>4} tokens, {threads} threads: {ms:.2f} ms, rotated {rotated_ms:.2f} ms, {share:+.1%}", flush=True)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
