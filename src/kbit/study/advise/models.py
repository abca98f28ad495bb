"""Models to choose from: families of known shapes, by name, and folders with a configuration."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kbit.core.errors import ModelError, SchemeError
from kbit.core.files import read_json
from kbit.core.registry import suggest
from kbit.core.strict_json import parse_json
from kbit.study.advise.footprint import ModelShape

__all__ = ["Choice", "find_models", "known_families", "same_family"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that may be advised: its name, its family in the words of rows, its shape, and its folder or None."""

    name: str
    family: str
    shape: ModelShape
    folder: Path | None = None


@cache
def known_families() -> dict[str, tuple[tuple[str, dict[str, Any]], ...]]:
    """Family → (name, configuration) of its models, smallest first."""
    table = parse_json(files("kbit").joinpath("data", "models.json").read_bytes(), "the table of models")
    return {family: tuple((model["name"], model["config"]) for model in models) for family, models in table["families"].items()}


def find_models(models: list[str] | None, family: str | None) -> list[Choice]:
    """Models by name or folder, and those of a family.

    Args:
        models: names of known models, or folders that hold a ``config.json``; None for all of the family.
        family: what rows call the models' family; for a folder it must be told, or its own name counts.

    Raises:
        SchemeError: neither, or a name that is not known. ModelError: a folder's architecture is none that can be advised.
    """
    if not models and family is None:
        raise SchemeError(f"expected a family or models to choose from; known families: {', '.join(known_families())}")
    if models:
        return [_one(model, family) for model in dict.fromkeys(models)]
    known = next((name for name in known_families() if same_family(name, str(family))), None)
    if known is None:
        raise SchemeError(f"unknown family {family!r}: {suggest(str(family), known_families())} (or give folders as models)")
    return [Choice(name, known, ModelShape(config, name)) for name, config in known_families()[known]]


def same_family(one: str, other: str) -> bool:
    """True for names that differ by case and punctuation alone: ``llama-3`` and ``Llama3``."""
    return _plain(one) == _plain(other)


def _one(model: str, family: str | None) -> Choice:
    path = Path(model)
    if path.is_dir():
        config = read_json(path / "config.json")
        if not isinstance(config, dict):
            raise ModelError(f"{path / 'config.json'}: expected an object, got {type(config).__name__}")
        return Choice(path.resolve().name, family or path.resolve().name, ModelShape(config, str(path)), path)
    known = {name: (known_family, config) for known_family, entries in known_families().items() for name, config in entries}
    name = next((name for name in known if _plain(name) == _plain(model)), None)
    if name is None:
        raise SchemeError(f"unknown model {model!r}: no folder, and no known name: {suggest(model, known)}")
    return Choice(name, family or known[name][0], ModelShape(known[name][1], name))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())  # with dots: OPT-1.3B is not OPT-13B
