"""A plan → its cells: what the files hold is looked at here, once, before anything is measured."""

import math
from dataclasses import dataclass
from pathlib import Path

from kbit.core.digest import digest_file, digest_json
from kbit.core.errors import KbitError, ModelError
from kbit.core.methods import needs_inputs
from kbit.core.scheme import Scheme
from kbit.store.folder import open_model
from kbit.store.tokenizer import load_tokenizer
from kbit.study.cell import QualityCell, SpeedCell, speed_scheme
from kbit.study.plan import PlannedModel, StudyPlan
from kbit.study.text import digest_texts

__all__ = ["StudyCells", "expand"]


@dataclass(frozen=True, slots=True)
class StudyCells:
    """Cells of a plan, small models first, originals first within a model."""

    quality: tuple[QualityCell, ...]
    speed: tuple[SpeedCell, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    planned: PlannedModel
    params: int
    sha256: str

    @property
    def values(self) -> dict[str, str | int]:
        return {
            "family": self.planned.family,
            "model": self.planned.name,
            "params": self.params,
            "model_sha256": self.sha256,
            "path": str(self.planned.path.resolve()),
        }


def expand(plan: StudyPlan, machine: str) -> StudyCells:
    """The cells of a plan.

    Args:
        plan: it.
        machine: what speeds belong to.

    Raises:
        ModelError: a model that cannot be read; names plan and field.
        FormatError, StorageError: a text that cannot be read.
    """
    models = sorted((_read(model) for model in plan.models), key=lambda model: model.params)
    quality = tuple(_quality(plan, models))
    return StudyCells(quality, tuple(_speed(plan, models, machine)))


def _read(model: PlannedModel) -> _Model:
    try:
        with open_model(model.path) as stored:
            if stored.manifest is not None:
                raise ModelError("it is packed already; expected the original")
            params = sum(math.prod(stored.entry(name).shape) for name in stored.plain_names())
            weights = sorted(container.path for container in stored.containers.values())
        load_tokenizer(model.path)
        files = [model.path / "config.json", model.path / "tokenizer.json", *weights]
        return _Model(model, params, digest_json({file.name: digest_file(file) for file in files}))
    except KbitError as error:
        raise ModelError(f"{model.place}: cannot read the model {model.name!r}: {error}") from error


def _quality(plan: StudyPlan, models: list[_Model]) -> list[QualityCell]:
    text = {"text_paths": _texts(plan.text.paths), "text_sha256": digest_texts(plan.text.paths)}
    given, tasks = plan.calibration, {}
    seen = {} if given is None else {"calibration_paths": _texts(given.paths), "calibration_sha256": digest_texts(given.paths)}
    if plan.tasks is not None:
        folder = plan.tasks.folder
        files = [] if folder is None else sorted(file for file in folder.rglob("*") if file.is_file())
        tasks = {
            "tasks": plan.tasks.names,
            "task_limit": plan.tasks.limit,
            "task_folder": "" if folder is None else str(folder.resolve()),
            "task_sha256": digest_json([[str(file.relative_to(folder)), digest_file(file)] for file in files]) if folder else "",
        }
    cells = []
    for model in models:
        for context in plan.text.contexts:
            for scheme in plan.schemes_of(model.planned.name):
                for seed in given.seeds if given is not None and needs_inputs(scheme.methods) else (None,):
                    looked = {} if seed is None or given is None else {**seen, "calibration_tokens": given.tokens, "seed": seed}
                    cells.append(
                        QualityCell(
                            **model.values,  # type: ignore[arg-type]
                            scheme=scheme.text,
                            embedding="16" if scheme.is_none else plan.embedding.text,
                            head="16" if scheme.is_none else plan.head.text,
                            dataset=plan.text.dataset,
                            context=context,
                            windows=plan.text.windows,
                            **text,  # type: ignore[arg-type]
                            **looked,  # type: ignore[arg-type]
                            **tasks,  # type: ignore[arg-type]
                        )
                    )
    return cells


def _speed(plan: StudyPlan, models: list[_Model], machine: str) -> list[SpeedCell]:
    if plan.speed is None:
        return []
    return [
        SpeedCell(
            **model.values,  # type: ignore[arg-type]
            scheme=scheme,
            embedding="16" if Scheme.parse(scheme).is_none else plan.embedding.text,
            head="16" if Scheme.parse(scheme).is_none else plan.head.text,
            threads=threads,
            prompt_tokens=plan.speed.prompt_tokens,
            decode_tokens=plan.speed.decode_tokens,
            repeats=plan.speed.repeats,
            machine=machine,
        )
        for model in models
        for scheme in dict.fromkeys(speed_scheme(scheme) for scheme in plan.schemes_of(model.planned.name, timed=True))
        for threads in plan.speed.threads
    ]


def _texts(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in paths)
