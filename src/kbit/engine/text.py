"""The text of one output: tokens in, whole characters out, up to a stop string."""

from collections.abc import Sequence

from kbit.engine.detokenize import Detokenizer
from kbit.engine.stop_strings import StopStrings

__all__ = ["OutputText"]


class OutputText:
    """Gathers the text of an output and says when it has ended.

    Args:
        detokenizer: of the model.
        prompt: tokens before the output; the text is what follows theirs.
        stops: texts that end it.
    """

    def __init__(self, detokenizer: Detokenizer, prompt: Sequence[int] = (), stops: Sequence[str] = ()) -> None:
        self._tokens = detokenizer.stream(prompt)
        self._stops = StopStrings(stops)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was shown."""
        return "".join(self._pieces)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stops.found

    def push(self, token: int) -> str:
        """New text to show, often a word; "" once a stop string has ended it."""
        return self._keep(self._stops.push(self._tokens.push(token))) if self.stop is None else ""

    def end(self) -> str:
        """No more tokens: the rest of the text."""
        if self.stop is not None:
            return ""
        shown = self._stops.push(self._tokens.end())
        return self._keep(shown + (self._stops.end() if self.stop is None else ""))

    def _keep(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece
