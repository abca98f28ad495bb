"""Which folds a model gets: those that concern no weight whose scheme does not ask for it.

A fold is done where every encoded weight that it changes says ``rotate``, and at least one whose inputs it rotates does. Weights
that stay in 16 bits go along, rounded once more. Tied tensors and tensors that the architecture does not speak of stop it.
"""

from collections.abc import Callable, Container, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from kbit.core.errors import ModelError, SchemeError
from kbit.core.registry import suggest
from kbit.core.scheme import Scheme
from kbit.engine.architectures import describe
from kbit.engine.names import spelled
from kbit.folding.changes import Change
from kbit.folding.find import Fold, Kind, Member, find_folds

__all__ = ["DEFAULT_FOLD", "FOLDS", "FoldChoice", "Tensors", "as_folded", "choose_changes", "stated_changes"]

FoldChoice = Literal["none", "values", "all"]
#: what a caller may ask for → kinds of folds that are tried
FOLDS: Mapping[str, tuple[Kind, ...]] = {"none": (), "values": ("values",), "all": ("values", "stream")}
#: the stream loses a little by being folded and gains no time that can be measured: it is folded where it is asked for
DEFAULT_FOLD: FoldChoice = "values"

#: name in the architecture's own spelling → the one that the model has, or None
Find = Callable[[str], str | None]


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


def choose_changes(config: Mapping[str, Any], tensors: Tensors, fold: FoldChoice = DEFAULT_FOLD) -> dict[str, Change]:
    """Parameter → what becomes of it; empty where nothing is folded, or the engine does not know the architecture.

    Args:
        config: the model's configuration.
        tensors: what it holds, and the schemes.
        fold: a key of `FOLDS`.

    Raises:
        SchemeError: `fold` is none.
    """
    if fold not in FOLDS:
        raise SchemeError(f"unknown choice of folds {fold!r}: {suggest(str(fold), FOLDS)}")

    def chosen(one: Fold, find: Find) -> dict[str, Member] | None:
        members = _members(one, find) if one.kind in FOLDS[fold] else None
        return members if members is not None and _fits(one, members, find, tensors) and _allowed(members, tensors) else None

    return _changes(config, tensors.shapes, chosen)


def stated_changes(config: Mapping[str, Any], names: Set[str], schemes: Mapping[str, Scheme]) -> dict[str, Change]:
    """The changes behind a packed model with parameters `names`, of which `schemes` say what was folded."""

    def chosen(fold: Fold, find: Find) -> dict[str, Member] | None:
        members = _members(fold, find)
        read = (name for name, member in (members or {}).items() if member.reads)
        return members if any(name in schemes and "folded" in schemes[name].methods for name in read) else None

    return _changes(config, names, chosen)


def _changes(
    config: Mapping[str, Any], names: Container[str], chosen: Callable[[Fold, Find], dict[str, Member] | None]
) -> dict[str, Change]:
    try:
        architecture = describe({key: value for key, value in config.items() if key != "quantization_config"})
    except ModelError:
        return {}

    def find(name: str) -> str | None:
        return next((one for one in spelled(name, architecture.spellings) if one in names), None)

    changes: dict[str, Change] = {}
    for fold in find_folds(architecture):
        for name, member in (chosen(fold, find) or {}).items():
            changes[name] = changes[name].with_other(member.change) if name in changes else member.change
    return changes


def _members(fold: Fold, find: Find) -> dict[str, Member] | None:
    """The members by the names that the model has for them; None where one is missing."""
    members: dict[str, Member] = {}
    for usual, member in fold.members.items():
        name = find(usual)
        if name is not None:
            members[name] = _renamed(member, find)
        elif not member.optional:
            return None
    return members


def _renamed(member: Member, find: Find) -> Member:
    gain = member.change.gain
    if gain is None:
        return member
    return replace(member, change=replace(member.change, gain=replace(gain, name=find(gain.name) or gain.name)))


def _fits(fold: Fold, members: Mapping[str, Member], find: Find, tensors: Tensors) -> bool:
    """Whether the tensors are those that the fold speaks of, each for itself, and no other has to do with the stream."""
    known = {*members, *(find(name) for name in fold.others)}
    strangers = (shape for name, shape in tensors.shapes.items() if name not in known)
    return (
        all(tensors.shapes[name] == member.shape for name, member in members.items())
        and tensors.tied.isdisjoint(members)
        and not (fold.width and any(fold.width in shape for shape in strangers))
    )


def _allowed(members: Mapping[str, Member], tensors: Tensors) -> bool:
    schemes = {name: tensors.schemes[name] for name in members if name in tensors.schemes}
    asked = all("rotate" in scheme.methods for scheme in schemes.values())
    return asked and any(members[name].reads and not members[name].table for name in schemes)
