"""Plan of a study: one TOML file.

name = "quill"

[text]
paths = ["books-heldout"]               # relative to the plan
dataset = "books-heldout"               # what rows call it
windows = 16                            # at even distances over the text; 0 for all of it
contexts = [512]

[calibration]                           # for methods that look at inputs
paths = ["books.txt"]

[[models]]
path = "models/quill-0.4m"              # name: the folder's; family: the plan's name

[[schemes]]                             # every combination
grids = ["int", "nf"]
bits = [2, 3, 4]
group_sizes = [64, -1]
methods = ["", "imp+gptq"]              # "" is the nearest level
options = [""]                          # such as "asym", "dq8"
models = ["quill-0.4m"]                 # for these alone; all without it
speed = false                           # measure their quality alone

[speed]                                 # optional: measured alone, after everything else
threads = [1, 2]

[tasks]                                 # optional: lm_eval
names = ["lambada_openai"]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

from kbit.core.data_types import GRIDS
from kbit.core.errors import SchemeError
from kbit.core.methods import needs_inputs
from kbit.core.registry import suggest
from kbit.core.scheme import KEEP, Scheme
from kbit.core.tables import Table, read_toml

__all__ = ["CalibrationPlan", "PlannedModel", "PlannedScheme", "SpeedPlan", "StudyPlan", "TaskPlan", "TextPlan"]


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model of the study; `place` names it in messages."""

    name: str
    family: str
    path: Path
    place: str


@dataclass(frozen=True, slots=True)
class PlannedScheme:
    """A scheme of the study, of the models of these names (all for none); `timed` where its speed is measured too."""

    scheme: Scheme
    models: tuple[str, ...]
    timed: bool


@dataclass(frozen=True, slots=True)
class TextPlan:
    """What every cell is scored on."""

    paths: tuple[Path, ...]
    dataset: str
    windows: int
    contexts: tuple[int, ...]
    place: str


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """What methods look at; one row a seed."""

    paths: tuple[Path, ...]
    tokens: int
    seeds: tuple[int, ...]
    place: str


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """How speed is measured; `threads` 0 takes every core."""

    threads: tuple[int, ...]
    prompt_tokens: int
    decode_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Tasks of lm_eval by name, from a folder of task files where one is given; `limit` 0 takes every item."""

    names: tuple[str, ...]
    folder: Path | None
    limit: int


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study; see the module for its file."""

    name: str
    path: Path
    text: TextPlan
    models: tuple[PlannedModel, ...]
    schemes: tuple[PlannedScheme, ...]
    embedding: Scheme
    head: Scheme
    calibration: CalibrationPlan | None
    speed: SpeedPlan | None
    tasks: TaskPlan | None

    def schemes_of(self, model: str, *, timed: bool = False) -> list[Scheme]:
        """Schemes that a model is encoded by, each once; only those whose speed is measured with `timed`."""
        of = [planned for planned in self.schemes if not planned.models or model in planned.models]
        return list(dict.fromkeys(planned.scheme for planned in of if planned.timed or not timed))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The plan in a TOML file.

        Raises:
            FormatError: it is not TOML.
            SchemeError: a word, type or value that does not fit; names file and field.
            StorageError: it cannot be read.
        """
        path = Path(path)
        table = read_toml(path)
        name = table.text("name")
        base = path.parent
        calibration = _calibration(table.table("calibration"), base) if "calibration" in table else None
        models = _models(table, base, name)
        schemes = tuple(dict.fromkeys(_schemes(table, [model.name for model in models])))
        if calibration is None and (needy := [planned.scheme for planned in schemes if needs_inputs(planned.scheme.methods)]):
            raise SchemeError(f"{table.where('calibration')} is missing: {needy[0].text!r} needs a calibration text")
        read = cls(
            name=name,
            path=path,
            text=_text(table.table("text"), base),
            models=models,
            schemes=schemes,
            embedding=_scheme(table, "embedding", table.text("embedding", "16")),
            head=_scheme(table, "head", table.text("head", "16")),
            calibration=calibration,
            speed=_speed(table.table("speed")) if "speed" in table else None,
            tasks=_tasks(table.table("tasks"), base) if "tasks" in table else None,
        )
        for key in ("calibration", "speed", "tasks"):
            table.value(key, None)
        table.finish()
        return read


def _models(table: Table, base: Path, family: str) -> tuple[PlannedModel, ...]:
    models: list[PlannedModel] = []
    for entry in table.tables("models"):
        path = base / entry.text("path")
        model = PlannedModel(entry.text("name", path.name), entry.text("family", family), path, entry.where("path"))
        entry.finish()
        if any(model.name == other.name for other in models):
            raise SchemeError(f"{entry.where('name')}: there is a model {model.name!r} already")
        models.append(model)
    if not models:
        raise SchemeError(f"{table.where('models')}: expected at least one model, got none")
    return tuple(models)


def _text(table: Table, base: Path) -> TextPlan:
    contexts = table.integers("contexts", (512,))
    if not contexts or min(contexts) < 2:
        raise SchemeError(f"{table.where('contexts')}: expected contexts of at least 2 tokens, got {list(contexts)}")
    read = TextPlan(
        paths=_paths(table, base),
        dataset=table.text("dataset"),
        windows=table.integer("windows", 0, least=0),
        contexts=contexts,
        place=table.where("paths"),
    )
    table.finish()
    return read


def _calibration(table: Table, base: Path) -> CalibrationPlan:
    seeds = table.integers("seeds", (0,))
    if not seeds or min(seeds) < 0:
        raise SchemeError(f"{table.where('seeds')}: expected seeds of at least 0, got {list(seeds)}")
    read = CalibrationPlan(_paths(table, base), table.integer("tokens", 131_072), seeds, table.where("paths"))
    table.finish()
    return read


def _speed(table: Table) -> SpeedPlan:
    threads = table.integers("threads", (0,))
    if not threads or min(threads) < 0:
        raise SchemeError(f"{table.where('threads')}: expected numbers of threads of at least 0, got {list(threads)}")
    read = SpeedPlan(threads, table.integer("prompt_tokens", 512), table.integer("decode_tokens", 64), table.integer("repeats", 3))
    table.finish()
    return read


def _tasks(table: Table, base: Path) -> TaskPlan:
    names = table.texts("names")
    if not names:
        raise SchemeError(f"{table.where('names')}: expected at least one task, got none")
    folder = table.text("folder", None)
    read = TaskPlan(names, None if folder is None else base / folder, table.integer("limit", 0, least=0))
    if read.folder is not None and not read.folder.is_dir():
        raise SchemeError(f"{table.where('folder')}: expected a folder of task files, got {read.folder}")
    table.finish()
    return read


def _paths(table: Table, base: Path) -> tuple[Path, ...]:
    paths = tuple(base / text for text in table.texts("paths"))
    if not paths:
        raise SchemeError(f"{table.where('paths')}: expected at least one file or folder, got none")
    for path in paths:
        if not path.exists():
            raise SchemeError(f"{table.where('paths')}: expected a text, got nothing at {path}")
    return paths


def _schemes(table: Table, known: Sequence[str]) -> Iterator[PlannedScheme]:
    if table.flag("originals", True):
        yield PlannedScheme(KEEP, (), True)
    for entry in table.tables("schemes"):
        models, timed = entry.texts("models", ()), entry.flag("speed", True)
        for name in models:
            if name not in known:
                raise SchemeError(f"{entry.where('models')}: no model {name!r} in this plan: {suggest(name, known)}")
        given = entry.texts("schemes", ())
        for text in given:
            yield PlannedScheme(_scheme(entry, "schemes", text), models, timed)
        if not given or "grids" in entry:
            for scheme in _combinations(entry):
                yield PlannedScheme(scheme, models, timed)
        entry.finish()


def _combinations(entry: Table) -> Iterator[Scheme]:
    grids, bits = entry.texts("grids"), entry.integers("bits")
    groups = entry.integers("group_sizes", (64,))
    methods, options = entry.texts("methods", ("",)), entry.texts("options", ("",))
    for grid in grids:
        if grid not in GRIDS:
            _scheme(entry, "grids", f"{grid}4")  # says what is known
    for grid, count, group, option, method in product(grids, bits, groups, options, methods):
        text = f"{grid}{count}:g{group}{':' * bool(option)}{option}{'+' * bool(method)}{method}"
        yield _scheme(entry, "grids/bits/group_sizes/options/methods", text)


def _scheme(table: Table, key: str, text: str) -> Scheme:
    try:
        return Scheme.parse(text)
    except SchemeError as error:
        raise SchemeError(f"{table.where(key)}: {error}") from None
