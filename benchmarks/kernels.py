"""Speed of the kernels on the layer shapes of 1B and 8B models, beside the machine's roofs and the peers.

    python benchmarks/kernels.py                      every k, 1B and 8B shapes, 1 and 2 threads, batch 1 and prefill
    python benchmarks/kernels.py --models 1b --bits 2 3 4 8 --json benchmarks/results/kernels.json

Batch 1: every matrix is copied until the copies exceed what caches hold of them, and each pass reads all of them, so that weights
come from memory. A plain reading loop is probed around each pass: the share of the roof is the median over rounds of
(bytes read / time) / (the probe of that round).
Prefill: 512 tokens against one matrix, beside the int8 roof (the instruction set's dot products on registers).
Peers run in the same rounds, on copies of their own: torch's int4pack (bf16) and int8pack, bitsandbytes NF4, fp32 and bf16 linear.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import machine
from kbit import native
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import PreparedMatrix
from kbit.native import _kbit
from kbit.native.memory import ALIGNMENT, HugeMemory
from kbit.tensor.quantized import QuantizedTensor

SHAPES = {
    "1b": {"q/o": (2048, 2048), "k/v": (512, 2048), "gate/up": (8192, 2048), "down": (2048, 8192)},
    "8b": {"q/o": (4096, 4096), "k/v": (1024, 4096), "gate/up": (14336, 4096), "down": (4096, 14336)},
}
STREAM_BYTES = 512 << 20
PREFILL_TOKENS = 512
GROUP_SIZE = 64
MAX_THREADS = 16

Pass = Callable[[], None]
Make = Callable[[Scheme, tuple[int, int]], QuantizedTensor]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1b", "8b"], choices=sorted(SHAPES))
    parser.add_argument("--bits", nargs="+", type=int, default=list(range(1, 9)))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--grids", nargs="+", default=["nf", "int"], help="data types; nf needs lookups, int does not")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-prefill", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Streamed:
    """Copies of one packed matrix that together exceed the caches, in a program of the engine; one pass multiplies with each of them.

    A pass is one native call, as a forward step is: each matrix quantizes its input, is read by all threads, and ends with their barrier.
    """

    def __init__(
        self, scheme: Scheme, shape: tuple[int, int], tokens: int, stream_bytes: int = STREAM_BYTES, make: Make | None = None
    ) -> None:
        quantized = (make or _encoded)(scheme, shape)
        matrix = PreparedMatrix(quantized)
        self.copies = max(1, -(-stream_bytes // matrix.size_bytes))
        self.bytes_read, self.tokens = matrix.size_bytes, tokens
        memory = HugeMemory(self.copies * (matrix.size_bytes + 2 * ALIGNMENT))
        self.program = _kbit.Program(tokens)
        source, out = self.program.buffer(shape[1]), self.program.buffer(shape[0])
        row = np.random.default_rng(1).standard_normal(shape[1]).astype(np.float32)
        self.program.embed(self.program.dense(row.view(np.uint8), 0, 1, shape[1]), source, 0, 1.0, 0, False)
        for _ in range(self.copies):
            copy = replace(quantized, weight=_copy(memory, quantized.weight), scale=_copy(memory, quantized.scale))
            part = (self.program.packed(PreparedMatrix(copy).native), 0, shape[0], None, 0)
            self.program.linear(source, (0, None, None, 0.0), [part], out, 0, False, False, 1.0, 0.0)
        self.result = np.empty((tokens, shape[0]), np.float32)
        self.program.finish(-1, out, MAX_THREADS)
        self.inputs = np.zeros(tokens, np.int32), np.array([[0, 0, tokens, -1]], np.int64)

    def run(self, threads: int) -> None:
        """One pass over all copies."""
        tokens, segments = self.inputs
        cache = _kbit.Cache(1, 1, 16, 0, 1)
        cache.create()
        self.program.run(
            cache, None, tokens.ctypes.data, 0, self.tokens, segments.ctypes.data, 1, 0, 0, self.result.ctypes.data, False, threads
        )


def _encoded(scheme: Scheme, shape: tuple[int, int]) -> QuantizedTensor:
    return encode(np.random.default_rng(0).standard_normal(shape, np.float32), scheme, name="bench")


def _copy(memory: HugeMemory, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = memory.empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def torch_peers(shape: tuple[int, int], tokens: int, stream_bytes: int) -> Iterator[tuple[str, int, int, Pass]]:
    """(name, bytes of a matrix, copies, one pass over all copies) of every peer that is installed."""
    import torch
    from torch.nn.functional import linear as dense

    rows, cols = shape
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
    x = torch.randn(tokens, cols, generator=torch.Generator().manual_seed(1))
    xh = x.bfloat16()

    def copies_of(size: int) -> int:
        return max(2, -(-stream_bytes // size)) if tokens == 1 else 1

    def linear(values: Any, activations: Any) -> Pass:
        held = [values.clone() for _ in range(copies_of(values.nbytes))]
        return lambda: [dense(activations, w) for w in held] and None

    yield "torch fp32", rows * cols * 4, copies_of(rows * cols * 4), linear(weight, x)
    yield "torch bf16", rows * cols * 2, copies_of(rows * cols * 2), linear(weight.bfloat16(), xh)

    size = rows * cols // 2
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (rows, cols), dtype=torch.int32), 1)
    scales = torch.rand(cols // GROUP_SIZE, rows, 2, dtype=torch.bfloat16)
    held4 = [packed.clone() for _ in range(copies_of(size))]
    yield (
        "torch int4pack g64",
        size + scales.nbytes,
        len(held4),
        lambda: [torch.ops.aten._weight_int4pack_mm_for_cpu(xh, w, GROUP_SIZE, scales) for w in held4] and None,
    )

    ints = torch.randint(-127, 127, (rows, cols), dtype=torch.int8)
    row_scales = torch.rand(rows, dtype=torch.bfloat16)
    held8 = [ints.clone() for _ in range(copies_of(rows * cols))]
    yield "torch int8pack", rows * cols, len(held8), lambda: [torch._weight_int8pack_mm(xh, w, row_scales) for w in held8] and None

    try:
        import bitsandbytes.functional as bnb
        from bitsandbytes import matmul_4bit
    except ImportError:
        return
    quantized, state = bnb.quantize_4bit(weight.bfloat16(), blocksize=GROUP_SIZE, quant_type="nf4")
    held_nf4 = [quantized.clone() for _ in range(copies_of(size))]
    yield (
        "bitsandbytes nf4 g64",
        size + rows * cols // GROUP_SIZE * 4,
        len(held_nf4),
        lambda: [matmul_4bit(xh, w.t(), quant_state=state) for w in held_nf4] and None,
    )


def seconds(run: Pass) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def decode_rows(shape_name: str, shape: tuple[int, int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Batch 1: kbit's types and the peers in the same rounds."""
    schemes = [Scheme.parse(f"{grid}{bits}:g{GROUP_SIZE}") for grid in options.grids for bits in options.bits]
    peers = [] if options.no_peers else list(torch_peers(shape, 1, STREAM_BYTES))
    for threads in options.threads:
        set_peer_threads(threads)
        for scheme in schemes:
            streamed = Streamed(scheme, shape, 1)
            streamed.run(threads)
            times, shares, roofs = [], [], []
            for _ in range(options.rounds):
                before = native.memory_roof(threads)
                elapsed = seconds(partial(streamed.run, threads)) / streamed.copies
                roof = (before + native.memory_roof(threads)) / 2
                times.append(elapsed)
                roofs.append(roof)
                shares.append(streamed.bytes_read / elapsed / 1e9 / roof)
            yield row(shape_name, shape, scheme.text, threads, 1, times, streamed.bytes_read, roofs, shares)
        for name, size, copies, run in peers:
            run()
            times, shares, roofs = [], [], []
            for _ in range(max(3, options.rounds // 3)):
                roof = native.memory_roof(threads)
                elapsed = seconds(run) / copies
                times.append(elapsed)
                roofs.append(roof)
                shares.append(size / elapsed / 1e9 / roof)
            yield row(shape_name, shape, name, threads, 1, times, size, roofs, shares)


def prefill_rows(shape_name: str, shape: tuple[int, int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """512 tokens: multiply-adds a second beside the int8 roof and the peers."""
    peers = [] if options.no_peers else list(torch_peers(shape, PREFILL_TOKENS, 0))
    for threads in options.threads:
        set_peer_threads(threads)
        schemes = [Scheme.parse(f"{grid}{bits}:g{GROUP_SIZE}") for grid in options.grids for bits in options.bits]
        runs: list[tuple[str, Pass]] = [
            *((scheme.text, partial(Streamed(scheme, shape, PREFILL_TOKENS, stream_bytes=0).run, threads)) for scheme in schemes),
            *((name, run) for name, _, _, run in peers),
        ]
        for name, run in runs:
            run()
            times, roofs, shares = [], [], []
            for _ in range(max(3, options.rounds // 3)):
                roof = native.int8_roof(threads)
                elapsed = seconds(run)
                times.append(elapsed)
                roofs.append(roof)
                shares.append(shape[0] * shape[1] * PREFILL_TOKENS / elapsed / 1e9 / roof)
            yield row(shape_name, shape, name, threads, PREFILL_TOKENS, times, 0, roofs, shares)


def row(
    shape_name: str,
    shape: tuple[int, int],
    name: str,
    threads: int,
    tokens: int,
    times: list[float],
    size: int,
    roofs: list[float],
    shares: list[float],
) -> dict[str, Any]:
    elapsed = statistics.median(times)
    result = {
        "shape": shape_name,
        "rows": shape[0],
        "cols": shape[1],
        "type": name,
        "threads": threads,
        "tokens": tokens,
        "microseconds": elapsed * 1e6,
        "gmac_per_s": shape[0] * shape[1] * tokens / elapsed / 1e9,
        "gb_per_s": size / elapsed / 1e9 if size else None,
        "roof": statistics.median(roofs),
        "share_of_roof": statistics.median(shares),
    }
    if size:
        speed = f"{result['gb_per_s']:6.1f} GB/s of {result['roof']:6.1f}"
    else:
        speed = f"{result['gmac_per_s']:6.1f} G/s of {result['roof']:6.1f}"
    print(
        f"{shape_name:12} {shape[0]:>6}×{shape[1]:<6} {name:22} {threads} thr {tokens:>4} tok {result['microseconds']:>10.0f} µs"
        f"  {speed}  {100 * result['share_of_roof']:4.0f} %",
        flush=True,
    )
    return result


def set_peer_threads(threads: int) -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


def main() -> None:
    options = arguments()
    facts = machine.print_header("kernels: batch 1 (share of the memory roof) and prefill (share of the int8 roof)")
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for name, shape in SHAPES[model].items():
            rows += decode_rows(f"{model} {name}", shape, options)
    if not options.no_prefill:
        for model in options.models:
            rows += prefill_rows(f"{model} gate/up", SHAPES[model]["gate/up"], options)
    machine.save(options.json, {"benchmark": "kernels", "machine": facts, "rows": rows})


if __name__ == "__main__":
    main()
