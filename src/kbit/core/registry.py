"""Name → object tables that answer an unknown name with "did you mean …"."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from kbit.core.errors import SchemeError
from kbit.core.shown import shown

__all__ = ["Registry", "suggest"]

T = TypeVar("T")


def suggest(word: str, known: Iterable[str]) -> str:
    """A clause that names the closest known words, or all of them: ``"did you mean 'nf4'?"``."""
    names = sorted(known)
    if not names:
        return "none is known"
    close = get_close_matches(word[:80], names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "known: " + ", ".join(names)


class _UnknownNameError(SchemeError, KeyError):
    """A KeyError too, so that `Mapping.get` answers with its default."""

    __str__ = Exception.__str__  # KeyError would quote the message


class Registry(Mapping[str, T], Generic[T]):
    """A read-mostly table; `register` is used as a decorator or a call."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an object under `name`; a name can be taken once."""

        def put(item: T) -> T:
            if name in self._items:
                raise SchemeError(f"{self.kind} {name!r} is already registered")
            self._items[name] = item
            return item

        return put

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise _UnknownNameError(f"unknown {self.kind} {shown(name)}: {suggest(str(name), self._items)}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
