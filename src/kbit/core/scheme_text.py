"""The text form of a scheme, used everywhere (command line, file, report), read into the fields of a `Scheme`.

    text     = grid bits [detail] { ":" option } { "+" method } { "+" part }     |  "16"  (leave the tensor alone)
    grid     = int | float | log | nf | quantile | dynamic | kmeans | nested | trellis | vq | nvq
    detail   = "e" N   exponent bits (float)          |  "r" N  levels per octave (log)
             | "d" N   weights that one code stands for (vq, nvq); bits are then those of one weight, halves too
    option   = "g" N   weights per scale, -1 per row  |  "asym" | "mse" | "e4m3" | "dq8"
    method   = "rotate" | "folded" | "awq" | "hqq" | "imp" | "actorder" | "gptq" | "bias", in this order (`kbit.core.methods`)
    part     = "outlier" P, "lowrank" R, … beside the packed matrix (`kbit.core.parts`)

Examples: ``nf4:g64``, ``int3:g128:asym:mse``, ``float4e2:g32:e4m3``, ``log4r2:g64``, ``kmeans3:g128``, ``int8:g-1``, ``int3:g64+gptq``,
``vq2d3:g96``, ``vq2.5d2:g128``.
"""

import re
from typing import Any

from kbit.core.data_types import GRIDS, VECTOR_GRIDS
from kbit.core.errors import SchemeError
from kbit.core.methods import METHODS
from kbit.core.parts import is_part
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["fields_of"]

#: characters of a scheme's text
MAX_TEXT = 10_000

_HEAD = re.compile(r"([a-z]+)([0-9]+(?:\.5)?)(?:([erd])([0-9]+))?")
_OPTIONS = ("asym", "mse", "fp16", "e4m3", "dq8", "g64", "g128", "g-1")


def fields_of(text: str) -> dict[str, Any]:
    """What a scheme's text says, by the names of `Scheme`'s fields; those that it does not name are left out.

    Raises:
        SchemeError: what was not understood, with the closest known word.
    """
    if not isinstance(text, str):
        raise SchemeError(f"a scheme is a text such as 'nf4:g64', got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise SchemeError(f"a scheme has at most {MAX_TEXT} characters, got {len(text)}: {shown(text)}")
    text = text.strip()
    if text == "16":
        return {"grid": "none", "bits": 16}
    start, *words = text.split("+")
    head, *options = start.split(":")
    match = _HEAD.fullmatch(head)
    if match is None:
        raise SchemeError(f"cannot read scheme {shown(text)}: expected a grid and its bits first, such as 'nf4'; {suggest(head, GRIDS)}")
    grid, bits, letter, detail = match.groups()
    if grid not in GRIDS:  # "none" too: its text is "16"
        raise SchemeError(f"unknown grid {shown(grid)}: {suggest(grid, GRIDS)}")
    values: dict[str, Any] = {"grid": grid, **_size_of_code(grid, bits, letter, detail, text)}
    for option in options:
        key, value = _parse_option(option, text)
        if key in values:
            raise SchemeError(f"scheme {shown(text)} gives {key} twice")
        values[key] = value
    if "group_size" not in values and values.get("dims") == 3:
        values["group_size"] = 96
    first = next((index for index, word in enumerate(words) if is_part(word)), len(words))
    if late := [word for word in words[first:] if word in METHODS]:
        raise SchemeError(f"expected methods before parts in scheme {shown(text)}, got {late[0]!r} after {words[first]!r}")
    return values | {"methods": tuple(words[:first]), "parts": tuple(words[first:])}


def _size_of_code(grid: str, bits: str, letter: str | None, detail: str, text: str) -> dict[str, Any]:
    """Bits of a code and the detail's field, from what a text's head says."""
    if grid in VECTOR_GRIDS:
        if letter != "d":
            raise SchemeError(f"scheme {shown(text)} lacks the weights that one code stands for: expected '{grid}2d3' or '{grid}2d2'")
        dims = _number(detail)
        whole, _, half = bits.partition(".")
        return {"bits": (2 * _number(whole) + bool(half)) * dims // 2, "dims": dims}
    if "." in bits:
        raise SchemeError(f"bits of the {grid} grid are whole numbers, got {bits} in scheme {shown(text)}")
    fields = {"e": "exponent_bits", "r": "per_octave", "d": "dims"}
    return {"bits": _number(bits)} | ({} if letter is None else {fields[letter]: _number(detail)})


def _parse_option(option: str, text: str) -> tuple[str, Any]:
    if match := re.fullmatch(r"g(-?[0-9]{1,9})", option):
        return "group_size", int(match[1])
    if option == "asym":
        return "symmetric", False
    if option == "mse":
        return "scale_search", option
    if option in ("fp16", "e4m3", "dq8"):
        return "scale_dtype", option
    if option in METHODS or is_part(option):
        raise SchemeError(
            f"{option!r} is a {'method' if option in METHODS else 'part'} in scheme {shown(text)}: "
            f"expected it at the end after a '+', such as 'int3:g64+{option}'"
        )
    raise SchemeError(f"unknown option {shown(option)} in scheme {shown(text)}: {suggest(option, _OPTIONS)}")


def _number(digits: str) -> int:
    """Value of decimal digits; beyond nine of them, some value that no field accepts."""
    return int(digits.lstrip("0")[:10] or "0")
