"""A scheme of kbit as a row that laws can speak of."""

from collections.abc import Mapping, Sequence
from typing import Any

from kbit.core.errors import FormatError, NumericsError
from kbit.core.scheme import Scheme
from kbit.study.rows import Row
from kbit.tensor.quantized import part_bytes

__all__ = ["method_of", "row_bits", "scheme_bpw", "scheme_row"]


def method_of(scheme: Scheme, known: Sequence[str] = ()) -> str:
    """How rows call a scheme's methods and parts: ``imp+gptq``, ``nearest``; of the words `known`, the nearest to that.

    Published rows call encoding to the nearest level ``rtn``, and know of GPTQ but not of importance.
    """
    exact = "+".join((*scheme.methods, *scheme.parts)) or ("mse" if scheme.scale_search == "mse" else "nearest")
    coarse = ("gptq", "imp+gptq") if "gptq" in scheme.methods else ("nearest", "rtn")
    return next((word for word in (exact, *coarse) if word in known), exact)


def row_bits(scheme: Scheme) -> int:
    """Bits of a weight's codes as rows count them: whole ones, of all levels of a cascade."""
    return round(scheme.weight_bits) + sum(scheme.spec.residual)


def scheme_bpw(scheme: Scheme, cols: int = 4096) -> float:
    """Bits a weight of a matrix [cols, cols], all that is stored: codes, scales, codebook, padding, and parts beside the codes."""
    if scheme.is_none:
        return 16.0
    return 8 * sum(part_bytes(scheme.for_row(cols), (cols, cols)).values()) / cols**2


def scheme_row(facts: Mapping[str, Any], scheme: str | Scheme, known_methods: Sequence[str] = ()) -> Row:
    """The row that a model would have under a scheme, its perplexity unknown.

    Args:
        facts: ``family``, ``params``, ``dataset``, ``context`` and, where it is known, ``bpw``, ``hidden_size`` and ``trained_tokens``.
        scheme: or its text; "16" for the original.
        known_methods: see `method_of`.

    Raises:
        SchemeError: a text that cannot be read. FormatError, NumericsError: facts that are missing or no numbers.
    """
    recipe = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    try:
        family, dataset = str(facts["family"]), str(facts["dataset"])
        params, context = int(facts["params"]), int(facts["context"])
        bpw = float(facts.get("bpw") or scheme_bpw(recipe, int(facts.get("hidden_size") or 4096)))
    except KeyError as error:
        raise FormatError(f"facts of the model: expected {error.args[0]!r}, got {', '.join(facts) or 'none'}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise NumericsError(f"facts of the model: {error}") from None
    if min(params, context, bpw) <= 0:
        raise NumericsError(f"facts of the model: expected positive numbers, got params {params}, context {context}, bpw {bpw:g}")
    if recipe.is_none:
        return Row(family, params, "none", 16, -1, bpw, dataset, context, None, "the model")
    extra: dict[str, float | str] = {"scheme": recipe.text, "grid": recipe.grid}
    extra |= {name: float(facts[name]) for name in ("hidden_size", "trained_tokens") if facts.get(name)}
    return Row(
        family,
        params,
        method_of(recipe, known_methods),
        row_bits(recipe),
        recipe.group_size,
        bpw,
        dataset,
        context,
        None,
        recipe.text,
        extra,
    )
