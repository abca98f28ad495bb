"""What `kbit bench --tune` measured on this machine: the fastest variant of each shape, kept in a file.

    {"format": "kbit-tuning", "version": 1, "machines": [
        {"processor": "…", "isa": "avx512", "kbit": "0.1.0", "threads": [1, 2], "choices": [
            {"bits": 2, "straight": true, "group": 64, "rows": 2048, "cols": 8192,
             "tokens": "few", "variant": "integer", "gain": 1.9}, …]}, …]}

A measurement speaks for one processor, instruction set and version of kbit; a file keeps those of several, since home folders are shared.
The file is ``$XDG_CACHE_HOME/kbit/tuning.json`` (``~/.cache`` where that is not set); `KBIT_TUNING` names another, or none if it is empty.

Reading is strict and raises; `active_tuning`, which a loading model asks, warns and goes on without.
"""

import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self, cast

from kbit.core.errors import FormatError, KbitError
from kbit.core.files import read_json, storage_errors, write_json
from kbit.kernels.variants import TOKEN_CLASSES, Kind, TokenClass, Variant, applicable

__all__ = [
    "Choice",
    "Machine",
    "Tuning",
    "active_tuning",
    "find_tuning",
    "forget_tunings",
    "machine",
    "read_tunings",
    "store_tuning",
    "tuning_path",
]

FORMAT, VERSION = "kbit-tuning", 1
MAX_BYTES = 4 << 20
MAX_CHOICES, MAX_MACHINES = 10_000, 100
_MAX_SIDE = 1 << 32
_KIND_FIELDS: Mapping[str, type] = {"bits": int, "straight": bool, "group": int, "rows": int, "cols": int}
#: a shape speaks for those whose sides differ from its own by less than this factor
_NEAR = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement speaks for.

    Attributes:
        processor: its name, family, model and stepping: hypervisors hide the name.
        isa: instruction set of the kernels.
        kbit: version of the package.
    """

    processor: str
    isa: str
    kbit: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.isa}, kbit {self.kbit}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest variant of one kind of matrix.

    Attributes:
        kind: of the matrix.
        tokens: the class of token counts.
        variant: the choice.
        gain: time of the default divided by the choice's; 1.0 where the default was kept.
    """

    kind: Kind
    tokens: TokenClass
    variant: Variant
    gain: float

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self.kind) | {"tokens": self.tokens, "variant": self.variant, "gain": self.gain}

    @classmethod
    def of_json(cls, value: object, where: str) -> Self:
        """The choice that a JSON object states.

        Raises:
            FormatError: it is not one, or its variant is not for such a matrix.
        """
        fields = _fields(value, {**_KIND_FIELDS, "tokens": str, "variant": str, "gain": float}, where)
        kind = Kind(**{name: fields[name] for name in _KIND_FIELDS})
        if not 1 <= kind.bits <= 8:
            raise FormatError(f"{where}: expected 1…8 bits, got {kind.bits}")
        if not all(1 <= side <= _MAX_SIDE for side in (kind.group, kind.rows, kind.cols)):
            raise FormatError(f"{where}: expected a group and sides of at least 1, got {kind.group} and {kind.rows}×{kind.cols}")
        if fields["tokens"] not in TOKEN_CLASSES:
            raise FormatError(f"{where}: expected tokens of {', '.join(TOKEN_CLASSES)}, got {fields['tokens'][:40]!r}")
        if fields["variant"] not in (possible := applicable(kind)):
            raise FormatError(f"{where}: expected one of {', '.join(possible)}, got {fields['variant'][:40]!r}")
        return cls(kind, fields["tokens"], fields["variant"], fields["gain"])


@dataclass(frozen=True, slots=True)
class Tuning:
    """The choices of one machine.

    Attributes:
        machine: what they speak for.
        threads: the numbers of threads that they were measured with.
        choices: one for each kind of matrix and class of token counts.
    """

    machine: Machine
    threads: tuple[int, ...]
    choices: tuple[Choice, ...]

    def variant(self, kind: Kind, token_class: TokenClass) -> Variant | None:
        """The choice for a kind of matrix, or for the nearest shape whose sides are within a factor of two; None where there is neither."""
        near = [
            (distance, choice.variant)
            for choice in self.choices
            if choice.tokens == token_class
            and replace(choice.kind, rows=kind.rows, cols=kind.cols) == kind
            and (distance := max(_ratio(choice.kind.rows, kind.rows), _ratio(choice.kind.cols, kind.cols))) < _NEAR
        ]
        return min(near, key=lambda pair: pair[0])[1] if near else None

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self.machine) | {"threads": list(self.threads), "choices": [choice.to_json() for choice in self.choices]}

    @classmethod
    def of_json(cls, value: object, where: str) -> Self:
        """The tuning that a JSON object states (`FormatError` where it states none)."""
        fields = _fields(value, {"processor": str, "isa": str, "kbit": str, "threads": list, "choices": list}, where)
        threads = fields["threads"]
        if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in threads):
            raise FormatError(f"{where}.threads: expected numbers of threads, got {str(threads)[:80]}")
        if len(fields["choices"]) > MAX_CHOICES:
            raise FormatError(f"{where}.choices: expected at most {MAX_CHOICES}, got {len(fields['choices'])}")
        choices = tuple(Choice.of_json(choice, f"{where}.choices[{i}]") for i, choice in enumerate(fields["choices"]))
        return cls(Machine(fields["processor"], fields["isa"], fields["kbit"]), tuple(threads), choices)


def machine(isa: str) -> Machine:
    """The processor at hand and this version of kbit, with the instruction set `isa`."""
    return Machine(_processor(), isa, _version())


def tuning_path() -> Path | None:
    """Where tunings are kept; None where `KBIT_TUNING` turns them off, or whoever runs this has no home."""
    chosen = os.environ.get("KBIT_TUNING")
    if chosen is not None:
        return Path(chosen) if chosen else None
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: what is not absolute counts as not set.
    try:
        home = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return home / "kbit" / "tuning.json"


def read_tunings(path: Path) -> list[Tuning]:
    """All tunings of a file, one a machine.

    Raises:
        FormatError: not a tuning file, or one of another version.
        LimitError: more than 4 MiB.
        StorageError: it is missing or unreadable.
    """
    value = read_json(path, max_bytes=MAX_BYTES)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FormatError(f"{path}: expected a file of {FORMAT!r}, got something else")
    if value.get("version") != VERSION:
        raise FormatError(f"{path}: expected version {VERSION}, got {str(value.get('version'))[:40]}")
    machines = value.get("machines")
    if not isinstance(machines, list) or len(machines) > MAX_MACHINES:
        raise FormatError(f"{path}: expected a list of at most {MAX_MACHINES} machines, got {type(machines).__name__}")
    return [Tuning.of_json(tuning, f"{path}: machines[{i}]") for i, tuning in enumerate(machines)]


def store_tuning(path: Path, tuning: Tuning) -> None:
    """Put a tuning into a file, atomically; those of other machines stay, a file that cannot be read does not.

    Raises:
        StorageError: the disk said no.
    """
    try:
        others = [other for other in read_tunings(path) if other.machine != tuning.machine]
    except KbitError:
        others = []
    with storage_errors(path.parent, "make"):
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = [*others[-(MAX_MACHINES - 1) :], tuning]
    write_json(path, {"format": FORMAT, "version": VERSION, "machines": [each.to_json() for each in kept]})
    forget_tunings()


def find_tuning(path: Path, isa: str) -> Tuning | None:
    """The tuning of this machine with the instruction set `isa`; None where there is no file.

    Raises:
        FormatError: a damaged file, or one that speaks for other machines only.
        LimitError, StorageError: it is too large, or unreadable.
    """
    if not os.path.lexists(path):  # also where its folder may not be read
        return None
    tunings, here = read_tunings(path), machine(isa)
    for tuning in tunings:
        if tuning.machine == here:
            return tuning
    others = "; ".join(str(tuning.machine) for tuning in tunings[:3])
    raise FormatError(f"{path}: expected a measurement of this machine ({here}), got {len(tunings)} of others: {others}")


def active_tuning(isa: str) -> Tuning | None:
    """The stored tuning of this machine with the instruction set `isa`, if there is one.

    A file that is damaged, or speaks for other machines only, is left aside with one warning that names it and says why.
    """
    path = tuning_path()
    return None if path is None else _tuning_of(path, isa)


@lru_cache(maxsize=16)
def _tuning_of(path: Path, isa: str) -> Tuning | None:
    try:
        return find_tuning(path, isa)
    except KbitError as error:
        warnings.warn(f"stored tuning ignored: {error}; 'kbit bench --tune' makes a new one", RuntimeWarning, stacklevel=2)
        return None


def forget_tunings() -> None:
    """Read the file again when it is next asked for."""
    _tuning_of.cache_clear()


def _fields(value: object, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """The fields of a JSON object, which must be these and no others."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        got = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise FormatError(f"{where}: expected an object of {', '.join(kinds)}, got {got[:200]}")
    fields = cast("dict[str, Any]", value)
    for name, kind in kinds.items():
        found = fields[name]
        fits = isinstance(found, int | float) if kind is float else isinstance(found, kind)
        if not fits or (isinstance(found, bool) and kind is not bool):
            raise FormatError(f"{where}.{name}: expected {kind.__name__}, got {str(found)[:80]!r}")
    return fields


def _ratio(a: int, b: int) -> float:
    return max(a, b) / min(a, b)


@lru_cache(maxsize=1)
def _processor() -> str:
    """Name, family, model and stepping of the processor, as Linux states them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    parts = [f"{key.removeprefix('cpu ').removeprefix('CPU ')} {facts[key]}" for key in numbers if key in facts]
    return f"{name} ({', '.join(parts)})" if parts else name


def _version() -> str:
    try:
        return metadata.version("kbit")
    except metadata.PackageNotFoundError:
        return "0+source"
