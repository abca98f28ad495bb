"""Which variant is the fastest for a matrix, by the clock.

Variants take turns within a round, and a round counts as ratios to its own time of the default: a machine's speed wanders within
minutes. The ratio of a variant is the median over the rounds, and the geometric mean over the numbers of tokens and threads. A choice
leaves the default only for a gain that is worth it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from statistics import geometric_mean, median

import numpy as np

from kbit.kernels.cpu import PreparedMatrix
from kbit.kernels.select import default_variant
from kbit.kernels.tuning import Choice
from kbit.kernels.variants import FEW_TOKENS, Kind, TokenClass, Variant, applicable
from kbit.native.memory import HugeMemory
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["COUNTS", "MARGIN", "STREAM_BYTES", "Streamed", "Timer", "measure_choices", "time_in_turns"]

#: numbers of tokens that stand for a class
COUNTS: dict[TokenClass, tuple[int, ...]] = {"one": (1,), "few": (2, FEW_TOKENS)}
#: a variant must save this part of the default's time to replace it
MARGIN = 0.03
#: what exceeds the caches of most machines
STREAM_BYTES = 512 << 20

_MAX_COPIES = 4096
_SECONDS = 0.004

#: seconds of one product: (variant, tokens, threads)
Timer = Callable[[Variant, int, int], float]


class Streamed:
    """Copies of one matrix [rows, cols], walked round and round, so that the one whose turn it is was last read `stream_bytes` ago."""

    def __init__(self, quantized: QuantizedTensor, stream_bytes: int = STREAM_BYTES) -> None:
        size = quantized.weight.nbytes
        copies = min(max(1, -(-stream_bytes // size)), _MAX_COPIES)
        memory = HugeMemory(copies * (size + quantized.scale.nbytes + 128))
        self.matrices = [PreparedMatrix(_copied(quantized, memory)) for _ in range(copies)]
        rows, cols = quantized.shape
        self.kind = self.matrices[0].kind
        self._x = np.random.default_rng(1).standard_normal((FEW_TOKENS, cols), np.float32)
        self._y = np.empty((FEW_TOKENS, rows), np.float32)
        self._next = 0

    def seconds(self, variant: Variant, tokens: int, threads: int) -> float:
        """Time of one product, over as many as take a few milliseconds."""
        for matrix in self.matrices:
            matrix.select("one" if tokens == 1 else "few", variant)
        self._multiply(tokens, threads)  # the kernel's own code and tables come into the cache
        done, elapsed, start = 0, 0.0, time.perf_counter()
        while elapsed < _SECONDS:
            self._multiply(tokens, threads)
            done += 1
            elapsed = time.perf_counter() - start
        return elapsed / done

    def _multiply(self, tokens: int, threads: int) -> None:
        self.matrices[self._next].matmul_pointers(self._x.ctypes.data, self._y.ctypes.data, tokens, threads=threads)
        self._next = (self._next + 1) % len(self.matrices)


def time_in_turns(timer: Timer, variants: Sequence[Variant], tokens: int, threads: int, rounds: int) -> list[dict[Variant, float]]:
    """Seconds of each variant, a dictionary a round; every other round goes backwards, so that nobody always comes after the same one."""
    found = []
    for number in range(rounds):
        order = variants if number % 2 == 0 else variants[::-1]
        found.append({variant: timer(variant, tokens, threads) for variant in order})
    return found


def measure_choices(kind: Kind, timer: Timer, *, isa: str, threads: Sequence[int], rounds: int) -> list[Choice]:
    """The choice for one token and for a few.

    Args:
        kind: of matrix.
        timer: answers with the time of a product.
        isa: instruction set, for its defaults.
        threads: numbers of threads to measure with.
        rounds: to take the median of.
    """
    choices = []
    for tokens, counts in COUNTS.items():
        default = default_variant(kind, tokens, isa)
        variants = applicable(kind)
        ratios: dict[Variant, list[float]] = {variant: [] for variant in variants}
        for count, workers in product(counts, threads):
            times = time_in_turns(timer, variants, count, workers, rounds)
            for variant in variants:
                ratios[variant].append(median(each[variant] / each[default] for each in times))
        combined = {variant: geometric_mean(found) for variant, found in ratios.items()}
        best = min(combined, key=lambda variant: combined[variant])
        if combined[best] > 1 - MARGIN:
            best = default
        choices.append(Choice(kind, tokens, best, round(1 / combined[best], 3)))
    return choices


def _copied(quantized: QuantizedTensor, memory: HugeMemory) -> QuantizedTensor:
    weight = memory.empty(quantized.weight.nbytes)
    weight[:] = quantized.weight
    scale = memory.empty(quantized.scale.nbytes).view(quantized.scale.dtype).reshape(quantized.scale.shape)
    scale[:] = quantized.scale
    return replace(quantized, weight=weight, scale=scale)
