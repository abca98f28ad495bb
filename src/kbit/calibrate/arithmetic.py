"""What a calibration text is run in: float32, or bfloat16 where that is several times as fast.

In bfloat16 the factors of matrix products are rounded to it, as in most programs that run such models; sums, norms and the stream between
layers stay in float32, and so do Hessians, which are those of the rounded inputs. A processor with matrix tiles then takes a fifth of the
time (`benchmarks/calibration.py`). A small model is run in float32 always: it takes little time as it is.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch

from kbit.core.errors import SchemeError
from kbit.core.registry import suggest

__all__ = ["Arithmetic", "ArithmeticChoice", "arithmetic_for", "choose_arithmetic", "layer_parameters"]

Arithmetic = Literal["float32", "bfloat16"]
ArithmeticChoice = Literal["auto", "float32", "bfloat16"]

#: parameters of a layer from which on ``auto`` is bfloat16
LARGE_LAYER = 1 << 24
_LAYER = re.compile(r".*?\.\d+\.")


def arithmetic_for(choice: str, shapes: Mapping[str, Sequence[int]]) -> Arithmetic:
    """What to run a model in that has weights of these names and shapes.

    Raises:
        SchemeError: no choice.
    """
    return choose_arithmetic(choice, layer_parameters(shapes))


def layer_parameters(shapes: Mapping[str, Sequence[int]]) -> int:
    """Parameters of the largest layer of a model, by the names and shapes of its weights; 0 where no name has a number in it."""
    layers: dict[str, int] = {}
    for name, shape in shapes.items():
        if found := _LAYER.match(name):
            layers[found[0]] = layers.get(found[0], 0) + math.prod(shape)
    return max(layers.values(), default=0)


def choose_arithmetic(choice: str, parameters: int) -> Arithmetic:
    """What to run a model in whose largest layer has so many parameters.

    Raises:
        SchemeError: no choice.
    """
    if choice not in get_args(ArithmeticChoice):
        raise SchemeError(f"unknown arithmetic {choice!r} for the calibration: {suggest(choice, get_args(ArithmeticChoice))}")
    if choice == "auto":
        return "bfloat16" if parameters >= LARGE_LAYER and _has_tiles() else "float32"
    return "bfloat16" if choice == "bfloat16" else "float32"


def _has_tiles() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
