"""The schemes among which a recipe chooses: tables to which lines can be added. Order and overlap do not matter.

A scheme that loses more than another of no greater size is never chosen, so a line costs nothing but the time to try it.

    one    one scheme for all weights, the largest that fits; so of two lines the larger loses less
    size   the least bytes for a loss: trellis codes up to four bits
    time   the least time for a loss, which the kernels decide on the machine at hand: trellis codes are slower than others of their bits
           with one token, vector codes are not

Lines of a trellis that differ in their groups alone cost next to nothing (`kbit.allocate.derived`); the first of them is what is measured.
"""

from typing import Literal

from kbit.core.scheme import KEEP, Scheme, TensorKind

__all__ = ["ONE", "ONE_PLAIN", "SIZE", "SIZE_PLAIN", "TIME", "TIME_PLAIN", "Goal", "candidates"]

Goal = Literal["one", "size", "time"]

#: linear layers, heads and experts, with a calibration text
ONE = (
    "trellis2:g256+imp+gptq",
    "trellis2:g64+imp+gptq",
    "trellis3:g256+imp+gptq",
    "trellis3:g64+imp+gptq",
    "trellis4:g256+imp+gptq",
    "trellis4:g64+imp+gptq",
    "kmeans5:g128+imp+gptq",
    "kmeans6:g128+imp+gptq",
    "int7:g128+imp+gptq",
    "int8:g128+imp+gptq",
)
SIZE = (
    "trellis1:g256+imp+gptq",
    "trellis1:g1024+imp+gptq",
    "trellis2:g256+imp+gptq",
    "trellis2:g1024+imp+gptq",
    "trellis2:g128+imp+gptq",
    "trellis3:g256+imp+gptq",
    "trellis3:g1024+imp+gptq",
    "trellis3:g128+imp+gptq",
    "trellis4:g256+imp+gptq",
    "trellis4:g1024+imp+gptq",
    "trellis4:g128+imp+gptq",
    "kmeans5:g128+imp+gptq",
    "kmeans6:g128+imp+gptq",
    "int7:g128+imp+gptq",
    "int8:g128+imp+gptq",
)
TIME = (
    "trellis2:g256+imp+gptq",
    "trellis3:g256+imp+gptq",
    "trellis4:g256+imp+gptq",
    "vq2d3:g96+imp+gptq",
    "kmeans2:g64+imp+gptq",
    "kmeans2:g32+imp+gptq",
    "kmeans3:g128+imp+gptq",
    "kmeans3:g64+imp+gptq",
    "kmeans3:g32+imp+gptq",
    "kmeans4:g128+imp+gptq",
    "kmeans4:g64+imp+gptq",
    "kmeans5:g128+imp+gptq",
    "kmeans6:g128+imp+gptq",
    "int7:g128+imp+gptq",
    "int8:g128+imp+gptq",
)

#: without a calibration text, and for what has no inputs to weigh: embeddings and convolutions
ONE_PLAIN = (
    "kmeans2:g64:mse",
    "kmeans3:g128:mse",
    "kmeans3:g64:mse",
    "kmeans4:g128:mse",
    "kmeans4:g64:mse",
    "kmeans5:g128:mse",
    "kmeans6:g128:mse",
    "int7:g128:mse",
    "int8:g128:mse",
)
SIZE_PLAIN = (
    "trellis2:g128",
    "trellis3:g128",
    "trellis4:g128",
    "kmeans2:g64:mse",
    "kmeans3:g128:mse",
    "kmeans4:g128:mse",
    "kmeans5:g128:mse",
    "kmeans6:g128:mse",
    "int7:g128:mse",
    "int8:g128:mse",
)
TIME_PLAIN = (*ONE_PLAIN, "vq2d3:g96:mse", "trellis2:g128", "trellis3:g128", "trellis4:g128")

_WITH_INPUTS: tuple[TensorKind, ...] = ("linear", "head", "conv1d", "experts")


def candidates(kind: TensorKind, *, calibrated: bool, goal: Goal = "size", keep: bool = False) -> tuple[Scheme, ...]:
    """Schemes to try for a weight.

    Args:
        kind: of the weight.
        calibrated: there is a calibration text.
        goal: what is asked for.
        keep: leaving it in 16 bits is one of the choices.
    """
    with_inputs, plain = {"one": (ONE, ONE_PLAIN), "size": (SIZE, SIZE_PLAIN), "time": (TIME, TIME_PLAIN)}[goal]
    texts = with_inputs if calibrated and kind in _WITH_INPUTS else plain
    return (*(Scheme.parse(text) for text in texts), *((KEEP,) if keep else ()))
