"""`Plan`: which scheme each module of a model gets, by patterns in its name and by its kind."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from kbit.core.errors import SchemeError
from kbit.core.registry import suggest
from kbit.core.scheme import KEEP, Scheme, TensorKind
from kbit.core.shown import shown

__all__ = ["Plan"]

#: characters of a pattern, and of all patterns of a plan: plans come from files, and patterns cost time to compile
MAX_PATTERN = 1_000
MAX_PATTERNS = 200_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Which scheme each module of a model gets.

    The first rule that matches decides: `skip` (left alone), then `rules`, then `embedding` / `head` by kind, then `default`.
    Patterns are regular expressions searched in the module's dotted name. A head tied to the embedding takes the embedding's
    scheme, since both are one tensor.
    """

    default: Scheme
    embedding: Scheme = KEEP
    head: Scheme = KEEP
    rules: tuple[tuple[str, Scheme], ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.rules, list | tuple) or any(not isinstance(rule, list | tuple) or len(rule) != 2 for rule in self.rules):
            raise SchemeError(f"plan rules are (pattern, scheme) pairs, got {shown(self.rules)}")
        if not isinstance(self.skip, list | tuple):
            raise SchemeError(f"plan skip is a list of patterns, got {shown(self.skip)}")
        object.__setattr__(self, "rules", tuple((pattern, scheme) for pattern, scheme in self.rules))
        object.__setattr__(self, "skip", tuple(self.skip))
        for scheme in (self.default, self.embedding, self.head, *(scheme for _, scheme in self.rules)):
            if not isinstance(scheme, Scheme):
                raise SchemeError(f"a plan holds schemes (Scheme.parse reads a text), got {shown(scheme)}")
        _check_patterns((*self.skip, *(pattern for pattern, _ in self.rules)))

    @classmethod
    def of(cls, scheme: "Plan | Scheme | str") -> "Plan":
        """A plan from a plan, a scheme or a scheme's text (embeddings and head stay in 16 bits)."""
        if isinstance(scheme, Plan):
            return scheme
        return cls(scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme))

    def scheme_for(self, name: str, kind: TensorKind) -> Scheme:
        """The scheme of module `name`."""
        if any(re.search(pattern, name) for pattern in self.skip):
            return KEEP
        for pattern, scheme in self.rules:
            if re.search(pattern, name):
                return scheme
        if kind == "embedding":
            return self.embedding
        return self.head if kind == "head" else self.default

    def with_default(self, scheme: Scheme) -> "Plan":
        """The same plan with another default."""
        return replace(self, default=scheme)

    def to_json(self) -> dict[str, Any]:
        """JSON object; schemes by their text."""
        return {
            "default": self.default.text,
            "embedding": self.embedding.text,
            "head": self.head.text,
            "rules": [[pattern, scheme.text] for pattern, scheme in self.rules],
            "skip": list(self.skip),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Plan from its JSON object; unknown keys are refused."""
        if not isinstance(value, Mapping) or "default" not in value:
            raise SchemeError("a plan is a JSON object with a 'default' scheme")
        known = {field.name for field in fields(cls)}
        for key in value:
            if key not in known:
                raise SchemeError(f"unknown plan key {shown(key)}: {suggest(str(key), known)}")
        rules, skip = value.get("rules", []), value.get("skip", [])
        if not (isinstance(rules, list) and all(isinstance(rule, list) and len(rule) == 2 for rule in rules)):
            raise SchemeError("plan 'rules' is a list of [pattern, scheme] pairs")
        if not isinstance(skip, list):
            raise SchemeError("plan 'skip' is a list of patterns")
        return cls(
            default=Scheme.parse(value["default"]),
            embedding=Scheme.parse(value.get("embedding", "16")),
            head=Scheme.parse(value.get("head", "16")),
            rules=tuple((pattern, Scheme.parse(scheme)) for pattern, scheme in rules),
            skip=tuple(skip),
        )


def _check_patterns(patterns: tuple[object, ...]) -> None:
    length = 0
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SchemeError(f"a plan pattern is a text, got {shown(pattern)}")
        if len(pattern) > MAX_PATTERN:
            raise SchemeError(f"a plan pattern has at most {MAX_PATTERN} characters, got {len(pattern)}: {shown(pattern)}")
        length += len(pattern)
    if length > MAX_PATTERNS:
        raise SchemeError(f"the patterns of a plan have at most {MAX_PATTERNS} characters together, got {length}")
    for pattern in dict.fromkeys(patterns):
        try:
            re.compile(str(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise SchemeError(f"plan pattern {shown(pattern)} is not a regular expression: {error}") from None
