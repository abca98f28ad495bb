"""Methods by which an encoder chooses codes beyond the nearest level; a scheme's text ends with them: ``int3:g64+imp+gptq``.

    rotate     inputs are rotated first (`kbit.tensor.rotation`), so that no weight stands out of its group
    folded     what became of `rotate` where the inputs come rotated already (`kbit.folding`): recorded, never asked for
    awq        inputs that matter are scaled up in the weights, the inverse goes into what makes them; the model computes what it did
    hqq        scales (and zero points) are optimised for a norm of the error that forgives outliers; looks at the weights alone
    imp        errors weigh by the importance of their input (mean square over a calibration text); implies the search of `mse`
    actorder   columns are encoded by falling importance instead of left to right; goes with gptq
    gptq       the error of each column is made up for by those that follow
    bias       the mean error of the outputs is added to the layer's bias, where it has one

Those of `NEEDS_INPUTS` look at inputs, so they need a calibration text (`kbit.calibrate`).
"""

from collections.abc import Sequence

from kbit.core.errors import SchemeError
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["METHODS", "NEEDS_INPUTS", "checked_methods", "needs_inputs", "refuse_folded", "refuse_uncalibrated"]

#: in the order in which a text gives them
METHODS = ("rotate", "folded", "awq", "hqq", "imp", "actorder", "gptq", "bias")
#: those that look at what a layer gets to see
NEEDS_INPUTS = frozenset({"awq", "imp", "actorder", "gptq", "bias"})


def checked_methods(methods: object) -> tuple[str, ...]:
    """Methods as a scheme holds them.

    Raises:
        SchemeError: a word that is no method, twice, in another order than `METHODS`, or ``actorder`` without ``gptq``.
    """
    if not isinstance(methods, list | tuple):
        raise SchemeError(f"methods are a list such as ['imp', 'gptq'], got {shown(methods)}")
    for method in methods:
        if not isinstance(method, str) or method not in METHODS:
            raise SchemeError(f"unknown method {shown(method)}: {suggest(str(method), METHODS)}")
        if methods.count(method) > 1:
            raise SchemeError(f"method {method!r} is given twice")
    ordered = tuple(method for method in METHODS if method in methods)
    if tuple(methods) != ordered:
        raise SchemeError(f"expected the methods in the order {_text(ordered)!r}, got {_text(methods)!r}")
    if {"rotate", "folded"} <= set(ordered):
        raise SchemeError("'folded' is what becomes of 'rotate' where nothing is left to rotate: expected one of them")
    if {"rotate", "awq"} <= set(ordered):
        raise SchemeError("'rotate' spreads inputs that stand out over all others, so that 'awq' has none to scale: expected one of them")
    if "actorder" in ordered and "gptq" not in ordered:
        raise SchemeError("'actorder' is the order in which gptq goes through the columns: expected '+actorder+gptq'")
    return ordered


def needs_inputs(methods: Sequence[str]) -> bool:
    """Whether any of `methods` looks at a layer's inputs."""
    return not NEEDS_INPUTS.isdisjoint(methods)


def refuse_uncalibrated(methods: Sequence[str], name: str) -> None:
    """Refuse to encode `name` by methods that need a calibration where there is none.

    Raises:
        SchemeError: there is such a method.
    """
    if needs_inputs(methods):
        raise SchemeError(
            f"{name}: {_text(methods)!r} needs a calibration text, and there is none here: give one "
            f"(kbit quantize --calibration FILE, or kbit.encode(..., calibration=...))"
        )


def refuse_folded(methods: Sequence[str], name: str) -> None:
    """Refuse to encode `name` by a scheme that says what was done elsewhere.

    Raises:
        SchemeError: ``folded`` is among the methods.
    """
    if "folded" in methods:
        raise SchemeError(f"{name}: '+folded' is how kbit records a rotation that went into the weights before: expected '+rotate'")


def _text(methods: Sequence[str]) -> str:
    return "".join(f"+{method}" for method in methods)
