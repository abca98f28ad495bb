"""Recipes as values: `Scheme`, how one tensor is encoded; its text form is that of `kbit.core.scheme_text`.

`Scheme.text` is canonical: equal schemes have equal texts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from kbit.core.data_types import DEFAULT_EXPONENT_BITS, GRIDS, VECTOR_BITS, VECTOR_GRIDS, vector_text
from kbit.core.errors import SchemeError
from kbit.core.methods import checked_methods
from kbit.core.parts import Parts, checked_parts, read_parts
from kbit.core.registry import suggest
from kbit.core.rotation import rotation_block
from kbit.core.scheme_text import fields_of
from kbit.core.shown import shown

__all__ = ["KEEP", "Scheme", "TensorKind"]

SCHEME_VERSION = 1
DEFAULT_GROUP_SIZE = 64

#: bits of all levels of a cascade: encoders choose a weight's codes among all of their sums
MOST_CASCADE_BITS = 8

ScaleDType = Literal["fp16", "e4m3", "dq8"]
ScaleSearch = Literal["absmax", "mse"]
TensorKind = Literal["linear", "embedding", "head", "conv1d", "conv2d", "experts"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one tensor is encoded. Immutable, hashable, comparable.

    Attributes:
        grid: name of the data type, a key of `GRIDS`, or ``"none"`` for a tensor left in 16 bits.
        bits: bits a code, 1…8 (16 with ``"none"``).
        exponent_bits: exponent bits of a float grid.
        per_octave: levels per octave of a log grid.
        group_size: weights that share a scale, a multiple of 16 in 16…1024 (of 32·dims for a vector grid), or -1 for one scale a row.
        symmetric: False adds an integer zero point a group (int grid only).
        scale_search: ``absmax`` or ``mse`` (scale with the least squared error, searched per group).
        scale_dtype: ``fp16``, ``e4m3`` (one fp32 a tensor above) or ``dq8`` (int8, one fp32 a 16-row tile above).
        methods: how codes are chosen beyond the nearest level, words of `kbit.core.methods.METHODS`; ``imp`` and ``hqq`` imply ``mse``.
        dims: neighbouring weights of a row that one code stands for; 1 but for the grids ``vq`` and ``nvq``.
        parts: what is stored beside the codes, words of `kbit.core.parts`.
    """

    grid: str
    bits: int
    exponent_bits: int | None = None
    per_octave: int | None = None
    group_size: int = DEFAULT_GROUP_SIZE
    symmetric: bool = True
    scale_search: ScaleSearch = "absmax"
    scale_dtype: ScaleDType = "fp16"
    methods: tuple[str, ...] = ()
    dims: int = 1
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", checked_methods(self.methods))
        object.__setattr__(self, "parts", checked_parts(self.parts))
        if self.grid == "none":
            options = tuple(getattr(self, field.name) for field in fields(self))[1:]
            expected = (16, None, None, DEFAULT_GROUP_SIZE, True, "absmax", "fp16", (), 1, ())
            if options != expected or [type(option) for option in options] != [type(option) for option in expected]:
                raise SchemeError("scheme '16' takes no options: it leaves the tensor as it is")
            return
        if not isinstance(self.grid, str) or self.grid not in GRIDS:
            raise SchemeError(f"unknown grid {shown(self.grid)}: {suggest(str(self.grid), GRIDS)}")
        self._check_dims()
        bits = GRIDS[self.grid]
        if not _is_int(self.bits) or self.bits not in bits:
            raise SchemeError(f"grid {self.grid!r} is defined for {bits[0]}…{bits[-1]} bits, got {self.bits!r}")
        self._check_detail()
        if not _is_int(self.group_size) or not _valid_group(self.group_size):
            raise SchemeError(f"group_size must be -1 or a multiple of 16 in 16…1024, got {self.group_size!r}")
        if not isinstance(self.symmetric, bool):
            raise SchemeError(f"symmetric must be true or false, got {self.symmetric!r}")
        if not self.symmetric and self.grid != "int":
            raise SchemeError(f"'asym' is defined for the int grid only, got {self.grid!r}")
        if self.scale_search not in ("absmax", "mse"):
            raise SchemeError(f"scale_search must be absmax or mse, got {self.scale_search!r}")
        if self.scale_dtype not in ("fp16", "e4m3", "dq8"):
            raise SchemeError(f"scale_dtype must be fp16, e4m3 or dq8, got {self.scale_dtype!r}")
        if self.grid == "trellis":
            self._check_trellis()
        if "hqq" in self.methods and (self.dims > 1 or self.grid == "trellis"):
            raise SchemeError(f"'hqq' optimises the scales of codes that each stand for one weight: expected none with {self.grid!r}")
        if "hqq" in self.methods or "imp" in self.methods:  # an absmax scale knows neither norm nor importance
            object.__setattr__(self, "scale_search", "mse")
        self._check_parts()

    def _check_parts(self) -> None:
        spec = self.spec
        if self.parts and self.grid == "nested":
            raise SchemeError(f"nested codes are read at fewer bits too, where their parts would not fit: expected none, got {self.text!r}")
        if (self.dims > 1 or self.grid == "trellis") and any(not word.startswith("lowrank") for word in self.parts):
            raise SchemeError(
                f"codes of the {self.grid} grid are chosen together, so none can be left out or kept in 16 bits: expected no part but "
                f"'lowrank', got {self.text!r}"
            )
        if spec.residual:
            self._check_residual()
        if (spec.pruned or spec.truncate is not None) and not self.symmetric:
            raise SchemeError(f"pruning keeps a level for 0, which {self.text!r} does not have: expected a scheme without 'asym'")
        if not spec.pruned:
            return
        if "actorder" in self.methods:
            raise SchemeError(f"pruning chooses among neighbours from left to right: expected {self.text!r} without 'actorder'")
        if self.bits == 8 and self.grid in ("kmeans", "quantile"):
            raise SchemeError(f"{self.grid}8 has no code left for 0: expected at most 7 bits with pruning, got {self.text!r}")
        if spec.kept(1 << 20) * self.bits + (1 << 20) >= (1 << 20) * self.bits:
            raise SchemeError(
                f"the mask of {self.text!r} takes a bit a weight, which is no less than its codes save: prune more, or store more bits"
            )

    def _check_residual(self) -> None:
        spec, text = self.spec, self.text
        if not self.symmetric or self.scale_dtype != "fp16":
            raise SchemeError(
                f"levels of a cascade are codes times scales of fp16: expected neither 'asym', 'e4m3' nor 'dq8', got {text!r}"
            )
        if spec.pruned or spec.truncate is not None:
            raise SchemeError(f"a cascade has codes for every weight on every level: expected no pruning nor truncation, got {text!r}")
        if spec.successive and len(self.parts) > 1:
            raise SchemeError(f"the first levels of a successive cascade stand alone, without parts: expected no other part, got {text!r}")
        if {"hqq", "actorder"} & set(self.methods) and not spec.successive:
            raise SchemeError(
                f"a cascade chooses the scales of its levels together, group by group: expected no hqq nor actorder, got {text!r}"
            )
        if self.bits + sum(spec.residual) > MOST_CASCADE_BITS:
            raise SchemeError(
                f"the levels of a cascade have at most {MOST_CASCADE_BITS} bits together, got {self.bits + sum(spec.residual)} in {text!r}"
            )
        for bits in spec.residual:
            self._level(bits)
        if not spec.successive:
            object.__setattr__(self, "scale_search", "mse")  # the levels' scales are searched together

    def _level(self, bits: int) -> Self:
        return replace(self, bits=bits, exponent_bits=None, methods=(), parts=())

    def residual_schemes(self) -> tuple[Self, ...]:
        """What each residual level is, as a tensor of its own; ``float`` levels take the exponent bits that their bits have by default."""
        return tuple(self._level(bits) for bits in self.spec.residual)

    def _check_trellis(self) -> None:
        if self.scale_dtype == "dq8":
            raise SchemeError("a trellis takes scales of fp16 or e4m3: expected 'trellis2:g64:e4m3' or the like, got 'dq8'")
        if "actorder" in self.methods:
            raise SchemeError("the columns of a trellis follow one another as they are stored: expected '+gptq' without '+actorder'")
        object.__setattr__(self, "scale_search", "mse")  # the path decides the error, so every scale is searched

    def _check_detail(self) -> None:
        if self.grid == "float":
            if self.exponent_bits is None:
                object.__setattr__(self, "exponent_bits", DEFAULT_EXPONENT_BITS[self.bits])
            elif not _is_int(self.exponent_bits) or not 1 <= self.exponent_bits <= min(5, self.bits - 1):
                raise SchemeError(f"float{self.bits} takes 1…{min(5, self.bits - 1)} exponent bits, got {self.exponent_bits!r}")
        elif self.exponent_bits is not None:
            raise SchemeError(f"exponent bits belong to the float grid, not to {self.grid!r}")
        if self.grid == "log":
            if self.per_octave is None:
                object.__setattr__(self, "per_octave", 1)
            elif not _is_int(self.per_octave) or not 1 <= self.per_octave <= 16:
                raise SchemeError(f"log grids take 1…16 levels per octave, got {self.per_octave!r}")
        elif self.per_octave is not None:
            raise SchemeError(f"levels per octave belong to the log grid, not to {self.grid!r}")

    def _check_dims(self) -> None:
        if self.grid not in VECTOR_GRIDS:
            if self.dims != 1 or not _is_int(self.dims):
                raise SchemeError(f"codes of the {self.grid} grid stand for one weight, got dims {self.dims!r}")
            return
        if not _is_int(self.dims) or self.bits not in VECTOR_BITS.get(self.dims, ()):
            known = ", ".join(vector_text(bits, dims) for dims, all_bits in VECTOR_BITS.items() for bits in all_bits)
            raise SchemeError(f"grid {self.grid!r} is defined for {known}, got {self.bits!r} bits a code for {self.dims!r} weights")
        size = self.group_size
        if _is_int(size) and size != -1 and size % (32 * self.dims):
            below = size // (32 * self.dims) * 32 * self.dims
            near = " or ".join(f"g{group}" for group in (below, below + 32 * self.dims) if 0 < group <= 1024)
            raise SchemeError(
                f"groups of {self.grid!r} with {self.dims} weights a code hold a multiple of {32 * self.dims}: {near}, got g{size}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Scheme from its text form.

        Raises:
            SchemeError: what was not understood, with the closest known word.
        """
        return cls(**fields_of(text))

    @property
    def _searched_anyway(self) -> bool:
        return self.grid == "trellis" or (bool(self.spec.residual) and not self.spec.successive)

    @property
    def spec(self) -> Parts:
        """The parts as numbers."""
        return read_parts(self.parts)

    @property
    def text(self) -> str:
        """Canonical text form; `Scheme.parse(scheme.text) == scheme`."""
        if self.is_none:
            return "16"
        parts = [f"{self.grid}{vector_text(self.bits, self.dims)}" if self.dims > 1 else f"{self.grid}{self.bits}"]
        if self.exponent_bits is not None:
            parts[0] += f"e{self.exponent_bits}"
        if self.per_octave is not None and self.per_octave != 1:
            parts[0] += f"r{self.per_octave}"
        parts.append(f"g{self.group_size}")
        parts += ["asym"] * (not self.symmetric)
        parts += ["mse"] * (self.scale_search == "mse" and not {"hqq", "imp"} & set(self.methods) and not self._searched_anyway)
        parts += [self.scale_dtype] * (self.scale_dtype != "fp16")
        return "+".join([":".join(parts), *self.methods, *self.parts])

    def for_row(self, cols: int) -> Self:
        """What a weight with rows of `cols` elements is recorded as.

        One scale a row (``g-1``) where a group would outreach the row; without ``rotate`` where rows of that length cannot be rotated.
        """
        scheme = self if self.is_none or self.group_size <= cols else replace(self, group_size=-1)
        if "rotate" in scheme.methods and not rotation_block(cols):
            return replace(scheme, methods=tuple(method for method in scheme.methods if method != "rotate"))
        return scheme

    @property
    def weight_bits(self) -> float:
        """Bits of a code over the weights that it stands for."""
        return self.bits / self.dims

    @property
    def is_none(self) -> bool:
        """True for the scheme that leaves a tensor as it is."""
        return self.grid == "none"

    def to_json(self) -> dict[str, Any]:
        """JSON object with a version; the inverse of `from_json`."""
        return {"version": SCHEME_VERSION, **asdict(self), "methods": list(self.methods), "parts": list(self.parts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Scheme from its JSON object; unknown keys and versions are refused."""
        if not isinstance(value, Mapping):
            raise SchemeError(f"a scheme is a JSON object, got {type(value).__name__}")
        values = dict(value)
        version = values.pop("version", None)
        if not _is_int(version) or version != SCHEME_VERSION:
            raise SchemeError(f"scheme version {version!r} is not readable here; expected {SCHEME_VERSION}")
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise SchemeError(f"unknown scheme key {shown(key)}: {suggest(str(key), known)}")
        for key in ("grid", "bits"):
            if key not in values:
                raise SchemeError(f"scheme lacks {key!r}")
        return cls(**values)

    def __str__(self) -> str:
        return self.text


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _valid_group(group_size: int) -> bool:
    return group_size == -1 or (16 <= group_size <= 1024 and group_size % 16 == 0)


#: the scheme that leaves a tensor as it is
KEEP = Scheme("none", 16)
