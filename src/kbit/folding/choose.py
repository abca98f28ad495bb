"""Which folds a model gets: those that concern no weight whose scheme does not ask for it.

A fold is done where every encoded weight that it changes says ``rotate``, and at least one whose inputs it rotates does. Weights
that stay in 16 bits go along, rounded once more. Tied tensors and tensors that the architecture does not speak of stop it.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from kbit.core.errors import ModelError
from kbit.core.scheme import Scheme
from kbit.engine.architectures import describe
from kbit.engine.architectures.model import Architecture
from kbit.engine.names import spelled
from kbit.folding.changes import Change
from kbit.folding.find import Fold, Member, find_folds

__all__ = ["Tensors", "as_folded", "choose_changes", "stated_changes"]


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a model under the names of its parameters.

    Attributes:
        shapes: name → shape in an ordinary checkpoint.
        schemes: name → scheme of those that are encoded.
        tied: names that stand for more than themselves.
    """

    shapes: Mapping[str, tuple[int, ...]]
    schemes: Mapping[str, Scheme]
    tied: Set[str] = frozenset()


def as_folded(scheme: Scheme) -> Scheme:
    """What a weight with ``rotate`` is recorded as where its inputs come rotated."""
    return replace(scheme, methods=tuple("folded" if method == "rotate" else method for method in scheme.methods))


def choose_changes(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Change]:
    """Parameter → what becomes of it; empty where nothing is folded, or the engine does not know the architecture."""
    return _changes(config, tensors, lambda fold: _allowed(fold, tensors))


def stated_changes(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Change]:
    """The changes behind a packed model, whose schemes say what was folded."""

    def stated(fold: Mapping[str, Member]) -> bool:
        found = (tensors.schemes.get(name) for name, member in fold.items() if member.reads)
        return any(scheme is not None and "folded" in scheme.methods for scheme in found)

    return _changes(config, tensors, stated)


def _changes(config: Mapping[str, Any], tensors: Tensors, wanted: Callable[[Mapping[str, Member]], bool]) -> dict[str, Change]:
    try:
        architecture = describe({key: value for key, value in config.items() if key != "quantization_config"})
    except ModelError:
        return {}
    changes: dict[str, Change] = {}
    for fold in find_folds(architecture):
        members = _resolved(fold, architecture, tensors)
        if members is None or not wanted(members):
            continue
        for name, member in members.items():
            changes[name] = changes[name].with_other(member.change) if name in changes else member.change
    return changes


def _resolved(fold: Fold, architecture: Architecture, tensors: Tensors) -> dict[str, Member] | None:
    """The members by the names that the model has for them; None where one is missing, tied or of another shape."""

    def find(name: str) -> str | None:
        return next((one for one in spelled(name, architecture.spellings) if one in tensors.shapes), None)

    members: dict[str, Member] = {}
    for usual, member in fold.members.items():
        name = find(usual)
        if name is None and member.optional:
            continue
        if name is None or tensors.shapes[name] != member.shape or name in tensors.tied:
            return None
        gain = member.change.gain
        if gain is not None:
            norm = find(gain.name)
            if norm is None:
                return None
            member = replace(member, change=replace(member.change, gain=replace(gain, name=norm)))  # noqa: PLW2901
        members[name] = member
    known = {*members, *(find(name) for name in fold.others)}
    if fold.width and any(fold.width in shape for name, shape in tensors.shapes.items() if name not in known):
        return None
    return members


def _allowed(members: Mapping[str, Member], tensors: Tensors) -> bool:
    schemes = {name: tensors.schemes[name] for name in members if name in tensors.schemes}
    asked = all("rotate" in scheme.methods for scheme in schemes.values())
    return asked and any(members[name].reads and not members[name].table for name in schemes)
