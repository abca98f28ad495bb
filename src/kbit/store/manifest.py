"""What a container says about the model in it: recipe, modules, ties, origin; and the one hash that names the model.

The manifest is JSON in the header's metadata under `MANIFEST_KEY`. Each shard carries the common part and the modules that lie in it, and
under `ROOT_KEY` the root of the whole model, so that a shard of another revision is found at once. The root is the SHA-256 over the whole
manifest (without the measured loss, which is a finding about the model and not the model) and the hash of every tensor; sharding does
not change it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar, get_args

from kbit.core.digest import digest_json
from kbit.core.errors import FormatError, IntegrityError, LimitError, SchemeError
from kbit.core.installation import package_version
from kbit.core.plan import Plan
from kbit.core.registry import suggest
from kbit.core.rotation import MIN_BLOCK, rotation_block
from kbit.core.scheme import Scheme, TensorKind
from kbit.core.shown import shown
from kbit.core.strict_json import dump_json, held_bytes, parse_json

__all__ = ["FORMAT_VERSION", "MANIFEST_KEY", "ROOT_KEY", "Manifest", "Module", "bounded_json", "merge_manifests"]

FORMAT_VERSION = 1
#: the oldest kbit that reads what this one writes
MIN_READER = "0.1.0"
MANIFEST_KEY = "kbit"
ROOT_KEY = "kbit_model"
#: 20,000 modules in a file, each an object with a list in it
MANIFEST_BRACKETS = 60_000
MANIFEST_COMMAS = 150_000
JSON_TEXT_BYTES = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Module:
    """A quantized module: its scheme, the shape of its weight before packing, and what it is."""

    scheme: Scheme
    shape: tuple[int, ...]
    kind: TensorKind = "linear"

    def to_json(self) -> dict[str, Any]:
        """JSON object; the scheme by its text."""
        return {"scheme": self.scheme.text, "shape": list(self.shape), "kind": self.kind}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is true of the whole model.

    Attributes:
        plan: the recipe; its digest is stored beside it.
        modules: name → quantized module; its arrays are `name.weight`, `name.weight_scale`, ….
        ties: tensor or module name that is not stored → the one that stands for it.
        base_model: name of the model that was encoded.
        seed: of whatever was drawn at random.
        calibration_digest: SHA-256 hex of the calibration data, if any.
        loss: measured loss in nats a token, if any; no part of the root.
        kbit_version: what wrote the file.
    """

    plan: Plan
    modules: Mapping[str, Module] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    base_model: str = ""
    seed: int = 0
    calibration_digest: str | None = None
    loss: float | None = None
    kbit_version: str = field(default_factory=package_version)

    @property
    def recipe_digest(self) -> str:
        """SHA-256 hex of the plan."""
        return digest_json(self.plan.to_json())

    def part(self, modules: Iterable[str]) -> Self:
        """The manifest of a shard that holds these modules."""
        return replace(self, modules={name: self.modules[name] for name in modules})

    def root(self, hashes: Mapping[str, str]) -> str:
        """The hash that names the model, from the hash of every tensor in it."""
        return digest_json({"manifest": replace(self, loss=None).to_json(), "tensors": dict(hashes)})

    def to_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        return {
            "format": FORMAT_VERSION,
            "min_reader": MIN_READER,
            "kbit_version": self.kbit_version,
            "base_model": self.base_model,
            "plan": self.plan.to_json(),
            "recipe_digest": self.recipe_digest,
            "calibration_digest": self.calibration_digest,
            "seed": self.seed,
            "loss": self.loss,
            "ties": dict(self.ties),
            "modules": {name: module.to_json() for name, module in self.modules.items()},
        }

    def to_text(self) -> str:
        """JSON text for the header's metadata."""
        return dump_json(self.to_json(), "manifest", indent=None).decode().rstrip("\n")

    @classmethod
    def from_text(cls, text: str, source: str) -> Self:
        """Manifest from the header's metadata; `source` names the file in errors.

        Raises:
            FormatError: not a manifest, or of a format version that this reader does not know.
            LimitError: more of anything than a manifest has use for.
        """
        value = bounded_json(text.encode(), f"{source}: metadata {MANIFEST_KEY!r}", brackets=MANIFEST_BRACKETS, commas=MANIFEST_COMMAS)
        return cls.from_json(value, source)

    @classmethod
    def from_json(cls, value: Any, source: str) -> Self:
        """Manifest from its JSON object; unknown keys, other types and other versions are refused."""
        fields = _Fields(value, f"{source}: metadata {MANIFEST_KEY!r}")
        version = fields.take("format", _integer)
        if version != FORMAT_VERSION:
            reader = str(fields.take("min_reader", _text))[:40]
            raise FormatError(f"{source}: format version {version}: expected {FORMAT_VERSION}; reading it needs kbit {reader} or newer")
        fields.take("min_reader", _text)
        manifest = cls(
            kbit_version=fields.take("kbit_version", _text),
            base_model=fields.take("base_model", _text),
            plan=fields.take("plan", Plan.from_json),
            calibration_digest=fields.take("calibration_digest", _optional(_digest)),
            seed=fields.take("seed", _integer),
            loss=fields.take("loss", _optional(_number)),
            ties=fields.take("ties", lambda ties: {_name(alias): _name(owner) for alias, owner in _object(ties).items()}),
            modules=fields.take("modules", _modules),
        )
        if fields.take("recipe_digest", _digest) != manifest.recipe_digest:
            raise IntegrityError(f"{source}: recipe_digest does not match the plan")
        fields.finish()
        return manifest


def merge_manifests(parts: Mapping[str, Manifest]) -> Manifest:
    """The whole model's manifest from file name → its shard's.

    Raises:
        FormatError: shards that disagree, or that hold the same module.
    """
    (first_name, first), *others = parts.items()
    modules = dict(first.modules)
    for name, part in others:
        if part.part(()) != first.part(()):
            raise FormatError(f"{name} is not of the same model as {first_name}: their manifests differ")
        if twice := modules.keys() & part.modules.keys():
            raise FormatError(f"module {min(twice)!r} lies in {name} and in another shard")
        modules.update(part.modules)
    return replace(first, modules=modules)


def bounded_json(data: bytes, source: str, *, brackets: int, commas: int) -> Any:
    """Strict JSON with at most so many containers and separators, and a text of `JSON_TEXT_BYTES` in memory at most.

    That bounds the memory of the text and of its objects before either is made.

    Raises:
        LimitError: more of something.
        FormatError: as `parse_json`.
    """
    for what, most, count in (
        ("bytes of text in memory", JSON_TEXT_BYTES, held_bytes(data)),
        ("brackets", brackets, data.count(b"[") + data.count(b"{")),
        ("commas", commas, data.count(b",")),
    ):
        if count > most:
            raise LimitError(f"{source}: expected at most {most} {what}, got {count}")
    return parse_json(data, source)


class _Fields:
    """The keys of a JSON object, each taken by name; what is left over at the end is refused."""

    def __init__(self, value: Any, source: str) -> None:
        self.source = source
        if not isinstance(value, dict):
            raise FormatError(f"{source}: expected a JSON object, got {type(value).__name__}")
        self.values = dict(value)
        self.taken: list[str] = []

    def take(self, key: str, convert: Callable[[Any], T]) -> T:
        if key not in self.values:
            raise FormatError(f"{self.source} lacks {key!r}")
        self.taken.append(key)
        try:
            return convert(self.values[key])
        except (SchemeError, FormatError, RecursionError, OverflowError) as error:  # the last two: patterns that `re` cannot compile
            raise FormatError(f"{self.source}: field {key!r}: {error}") from None

    def finish(self) -> None:
        for key in self.values:
            if key not in self.taken:
                raise FormatError(f"{self.source}: unknown field {shown(key)}: {suggest(key, self.taken)}")


def _modules(value: Any) -> dict[str, Module]:
    return {_name(name): _module(item, f"module {shown(name)}") for name, item in _object(value).items()}


def _module(value: Any, source: str) -> Module:
    fields = _Fields(value, source)
    module = Module(fields.take("scheme", Scheme.parse), fields.take("shape", _shape), fields.take("kind", _kind))
    fields.finish()
    if module.scheme.is_none:
        raise FormatError(f"{source}: field 'scheme': a tensor left in 16 bits is no quantized module")
    if module.scheme.group_size > module.shape[-1]:
        raise FormatError(
            f"{source}: field 'scheme': expected a group size of at most the {module.shape[-1]} columns of a row, "
            f"got {module.scheme.group_size} in {module.scheme.text!r}"
        )
    if "rotate" in module.scheme.methods and not rotation_block(module.shape[-1]):
        raise FormatError(
            f"{source}: field 'scheme': expected rows of a multiple of {MIN_BLOCK} columns to rotate, "
            f"got {module.shape[-1]} in {module.scheme.text!r}"
        )
    return module


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise FormatError(f"expected an integer of 64 bits, got {shown(value)}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise FormatError(f"expected a finite number, got {shown(value)}")
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise FormatError(f"expected a text, got {shown(value)}")
    return value


def _name(value: Any) -> str:
    if not _text(value) or not value.isprintable():  # names are shown on terminals
        raise FormatError(f"expected a name without control characters, got {shown(value)}")
    return str(value)


def _digest(value: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", _text(value)):
        raise FormatError(f"expected 64 hex digits, got {shown(value)}")
    return str(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"expected an object, got {shown(value)}")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        raise FormatError(f"expected a list of 1…8 dimensions, got {shown(value)}")
    shape = tuple(_integer(dimension) for dimension in value)
    if min(shape) < 1 or math.prod(shape) >= 2**63:
        raise FormatError(f"expected dimensions of at least 1 with a product under 2^63, got {shown(value)}")
    return shape


def _kind(value: Any) -> TensorKind:
    known = get_args(TensorKind)
    if value not in known:
        raise FormatError(f"expected one of {', '.join(known)}, got {shown(value)}")
    kind: TensorKind = value
    return kind


def _optional(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else convert(value)
