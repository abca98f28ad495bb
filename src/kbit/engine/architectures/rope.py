"""Inverse frequencies of rotary position embeddings, in each of the ways that checkpoints scale them for longer contexts.

    default   θ^(−2i/d)                                                             Su et al. 2021
    linear    the same / factor                                                     Chen et al. 2023
    llama3    long waves / factor, short ones kept, a ramp between                  Llama 3.1
    yarn      a ramp in the index between kept and divided ones; cos, sin scaled    Peng et al. 2023
    longrope  each divided by its own searched factor; cos, sin scaled              Ding et al. 2024 (Phi-3's "su")

Computed in float32 step by step as in transformers (`modeling_rope_utils`), so that angles far into a text agree.

longrope has two sets of factors, one for texts up to the length that the model was first trained on and one for longer ones. Keys in a
cache are rotated already, so a text cannot change from one to the other on its way: the plan's context decides, as in vLLM and llama.cpp.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kbit.core.registry import suggest
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Rotary

__all__ = ["Rope", "RopeDialect", "plain_rotary", "read_rope"]

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RopeDialect:
    """How a family words its rotary settings, and what it has where they say nothing.

    Attributes:
        theta, theta_key: base.
        partial, partial_key: share of a head's dimensions that are rotated.
        renamed: its own names of scalings → the usual ones.
    """

    theta: float = 10_000.0
    theta_key: str = "rope_theta"
    partial: float = 1.0
    partial_key: str = "partial_rotary_factor"
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotation, and the positions for which it holds."""

    rotary: Rotary
    context: int


@dataclass(frozen=True, slots=True)
class _Request:
    """What a scaling is computed from: plain frequencies for base `theta`, the settings, and the lengths around them."""

    values: Settings
    plain: Frequencies
    theta: float
    longest: int
    original: int
    wanted: int | None


def read_rope(settings: Settings, head_dim: int, dialect: RopeDialect | None = None, layer_type: str | None = None) -> Rope:
    """The rotation that a configuration asks for.

    Args:
        settings: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before), is read from here.
        head_dim: dimensions of a head.
        dialect: of the family.
        layer_type: key of a nested object in `rope_parameters` for layers of this type.

    Raises:
        ModelError: an unknown scaling, or numbers that make none; the key is named.
    """
    dialect = dialect or RopeDialect()
    values = _parameters(settings, layer_type)
    theta = values.number("rope_theta", default=settings.number(dialect.theta_key, default=dialect.theta))
    partial = values.number("partial_rotary_factor", default=settings.number(dialect.partial_key, default=dialect.partial))
    dims = int(head_dim * partial)
    if dims < 2 or dims + dims % 2 > head_dim:  # an odd number is rounded up
        raise settings.error((dialect.partial_key,), f"a share that makes pairs of a head's {head_dim} dimensions", partial)
    longest = settings.integer("max_position_embeddings")
    original = settings.optional_integer("original_max_position_embeddings")
    original = original or values.integer("original_max_position_embeddings", default=longest)
    request = _Request(values, _plain(theta, dims), theta, longest, original, settings.context)
    frequencies, factor, context = _SCALINGS[_scaling(values, dialect)](request)
    return Rope(Rotary(tuple(map(float, frequencies)), factor=factor), context)


def plain_rotary(theta: float, dims: int) -> Rotary:
    """The unscaled rotation of `dims` dimensions."""
    return Rotary(tuple(map(float, _plain(theta, dims))))


def _parameters(settings: Settings, layer_type: str | None) -> Settings:
    """The object that holds the scaling; empty where there is none. A scaling by itself is of the layers that see everything."""
    none = Settings({}, settings.name)
    scaling, values = settings.nested("rope_scaling"), settings.nested("rope_parameters")
    if layer_type is None:
        values = scaling or values or none
    else:
        values = (values or none).nested(layer_type) or none
        if scaling is not None and layer_type == "full_attention":
            values = Settings({**values.values, **scaling.values}, scaling.name)
    unknown = sorted(set(values.values) - _KEYS)
    if unknown:
        raise values.error((unknown[0],), f"only keys that the engine knows ({suggest(unknown[0], _KEYS)})", values.raw(unknown[0]))
    return values


def _scaling(values: Settings, dialect: RopeDialect) -> str:
    name = values.raw("rope_type", "type") or "default"
    name = dialect.renamed.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in _SCALINGS:
        raise values.error(("rope_type",), f"a scaling that the engine knows ({suggest(str(name), _SCALINGS)})", name)
    return name


def _plain(theta: float, dims: int) -> Frequencies:
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return np.float32(1) / np.float32(theta) ** exponents


def _default(request: _Request) -> tuple[Frequencies, float, int]:
    return request.plain, 1.0, request.longest


def _linear(request: _Request) -> tuple[Frequencies, float, int]:
    return request.plain / np.float32(request.values.number("factor")), 1.0, request.longest


def _llama3(request: _Request) -> tuple[Frequencies, float, int]:
    values, plain = request.values, request.plain
    factor = np.float32(values.number("factor"))
    low, high = values.number("low_freq_factor"), values.number("high_freq_factor")
    if high <= low:
        raise values.error(("high_freq_factor",), f"more than low_freq_factor {low:g}", high)
    wavelength = np.float32(2 * math.pi) / plain
    kept = np.where(wavelength > request.original / low, plain / factor, plain)
    smooth = (np.float32(request.original) / wavelength - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * kept / factor + smooth * kept
    medium = (wavelength >= request.original / high) & (wavelength <= request.original / low)
    return np.where(medium, between, kept).astype(np.float32), 1.0, request.longest


def _yarn(request: _Request) -> tuple[Frequencies, float, int]:
    values, plain = request.values, request.plain
    factor = values.number("factor", default=request.longest / request.original)
    dims = 2 * plain.size
    truncate = values.flag("truncate", default=True)

    def boundary(rotations: float) -> float:
        return dims * math.log(request.original / (rotations * 2 * math.pi)) / (2 * math.log(request.theta))

    low, high = boundary(values.number("beta_fast", default=32.0)), boundary(values.number("beta_slow", default=1.0))
    low, high = (math.floor(low), math.ceil(high)) if truncate else (low, high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((np.arange(plain.size, dtype=np.float32) - low) / (high - low or 0.001), 0, 1).astype(np.float32)
    frequencies = plain / np.float32(factor) * ramp + plain * (1 - ramp)
    return frequencies.astype(np.float32), _yarn_factor(values, factor), request.longest


def _yarn_factor(values: Settings, factor: float) -> float:
    """Factor of cos and sin: 0.1·ln(factor) + 1, or the ratio of two such."""

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    given = values.optional_number("attention_factor")
    numerator, denominator = values.optional_number("mscale", above=-1), values.optional_number("mscale_all_dim", above=-1)
    ratio = magnitude(numerator) / magnitude(denominator) if numerator and denominator else magnitude(1.0)
    return ratio if given is None else given


def _longrope(request: _Request) -> tuple[Frequencies, float, int]:
    values, plain, original = request.values, request.plain, request.original
    short, long = (np.array(values.numbers(key, plain.size), np.float32) for key in ("short_factor", "long_factor"))
    factor = values.number("factor", default=request.longest / original)
    if original < 2:
        raise values.error(("original_max_position_embeddings",), "at least 2", original)
    scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    scale = values.number("attention_factor", default=scale)
    beyond = request.wanted is not None and request.wanted > original
    return plain / (long if beyond else short), scale, request.longest if beyond else original


_SCALINGS: Mapping[str, Callable[[_Request], tuple[Frequencies, float, int]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
_KEYS = frozenset(
    {
        "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings", "attention_factor",
        "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
        "short_factor", "long_factor", "low_freq_factor", "high_freq_factor",
    }
)  # fmt: skip
