"""Texts that end the output, found across pieces.

A stop string is found at the first place at which one begins; where several begin there, the longest counts. What could still become one is
held back, so the result hangs on the text alone, not on where it was cut into pieces. The stop string itself is not shown.
"""

from collections.abc import Sequence

from kbit.core.errors import SchemeError

__all__ = ["StopStrings", "check_stop_strings"]


def check_stop_strings(stops: Sequence[str]) -> tuple[str, ...]:
    """The stop strings, without doubles.

    Raises:
        SchemeError: an empty one, or something that is no text.
    """
    if isinstance(stops, str):
        raise SchemeError(f"expected a list of stop strings, got the one string {stops!r}")
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise SchemeError(f"expected stop strings of at least one character, got {stop!r}")
    return tuple(dict.fromkeys(stops))


class StopStrings:
    """Watches one text.

    Args:
        stops: texts that end it.

    Attributes:
        found: the stop string that ended the text; None so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(check_stop_strings(stops), key=len, reverse=True)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that is certain to be shown now that `piece` has come."""
        if not self._stops:
            return piece
        return self._scan(self._held + piece, over=False)

    def end(self) -> str:
        """No more text: what was held back and became no stop string."""
        return self._scan(self._held, over=True)

    def _scan(self, text: str, *, over: bool) -> str:
        for place in range(len(text)):
            if not over and self._may_grow(text, place):
                self._held = text[place:]
                return text[:place]
            complete = next((stop for stop in self._stops if text.startswith(stop, place)), None)
            if complete is not None:
                self.found, self._held = complete, ""
                return text[:place]
        self._held = ""
        return text

    def _may_grow(self, text: str, place: int) -> bool:
        """What stands at `place` is the beginning of a longer stop string."""
        rest = len(text) - place
        return any(len(stop) > rest and text.startswith(stop[:rest], place) for stop in self._stops)
