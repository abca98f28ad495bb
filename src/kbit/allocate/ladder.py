"""The schemes among which bits are shared out: tables to which lines can be added. Order and overlap do not matter.

A scheme that loses more than another of no greater size is never chosen, so a line costs nothing but the time to try it.
"""

from kbit.core.scheme import KEEP, Scheme, TensorKind

__all__ = ["CALIBRATED", "PLAIN", "candidates"]

#: linear layers, heads and experts, with a calibration text
CALIBRATED = (
    "kmeans2:g128+imp+gptq",
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
PLAIN = (
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

_WITH_INPUTS: tuple[TensorKind, ...] = ("linear", "head", "conv1d", "experts")


def candidates(kind: TensorKind, *, calibrated: bool, keep: bool = False) -> tuple[Scheme, ...]:
    """Schemes to try for a weight.

    Args:
        kind: of the weight.
        calibrated: there is a calibration text.
        keep: leaving it in 16 bits is one of the choices.
    """
    texts = CALIBRATED if calibrated and kind in _WITH_INPUTS else PLAIN
    return (*(Scheme.parse(text) for text in texts), *((KEEP,) if keep else ()))
