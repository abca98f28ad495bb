"""Tokens to text, one at a time, never half a character.

A token may hold a part of a character only, and what it reads as may depend on its neighbours (a leading space, a run of byte tokens). So
each step decodes a short window: the tokens since the place before last at which the text was whole. What the window says beyond what was
shown is new. The pieces of a sequence add up to the decode of all its tokens.

Two kinds of tokenizers split characters:

    byte-level BPE   tokens are bytes. An unfinished character decodes to one U+FFFD at the end of the window: it is held back, alone.
    byte fallback    a character outside the vocabulary becomes a run of tokens <0xE2> <0x82> …  One byte that fits nowhere turns the
                     whole run into U+FFFD, so a run is shown when it is over.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

__all__ = ["Detokenizer", "TokenStream"]

UNFINISHED = "\ufffd"
#: bytes of a UTF-8 character, at most: among so many places between tokens one lies between characters
LONGEST_CHARACTER = 4
#: tokens of a window that never becomes whole (a model that writes bytes at random), before its front is cut off
WIDEST_WINDOW = 16


class Detokenizer:
    """What streams need to know of a tokenizer; one serves all sequences.

    Args:
        tokenizer: with its decoder. Special tokens are not shown.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special)
        self.bytes = _byte_tokens(tokenizer)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens as a whole, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def silent(self, token: int) -> bool:
        """The decode skips it: a special token, or an id without a token (a model may have more outputs than its tokenizer tokens)."""
        return token in self._special or self._tokenizer.id_to_token(token) is None

    def stream(self, prompt: Sequence[int] = ()) -> "TokenStream":
        """A stream of what follows `prompt`, such that its text and the pieces make one text."""
        return TokenStream(self, self._tail(prompt))

    def _tail(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of the prompt that what follows may depend on: a run of byte tokens, and a whole character."""
        tail: list[int] = []
        for token in (int(token) for token in reversed(prompt) if not self.silent(int(token))):
            tail.insert(0, token)
            if token in self.bytes:
                continue
            if len(tail) >= LONGEST_CHARACTER or not self.decode(tail).endswith(UNFINISHED):
                break
        return tail


def _byte_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of <0x00> … <0xFF> where the decoder joins them to characters, else nothing."""
    found = {byte: tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    ids = {byte: token for byte, token in found.items() if token is not None}
    euro = [ids[byte] for byte in "€".encode() if byte in ids]
    return frozenset(ids.values()) if tokenizer.decode(euro) == "€" else frozenset()


class TokenStream:
    """Text of one sequence as its tokens come.

    Args:
        detokenizer: of the model.
        context: tokens before the first, already shown.
    """

    def __init__(self, detokenizer: Detokenizer, context: Sequence[int] = ()) -> None:
        self._of = detokenizer
        self._window: list[int] = list(context)
        self._shown = self._settled = 0
        self._settle()

    def push(self, token: int) -> str:
        """The text that `token` makes whole; often a word, sometimes nothing."""
        if self._of.silent(token):
            return ""
        self._window.append(token)
        if token in self._of.bytes:
            return ""
        return self._show(self._of.decode(self._window))

    def end(self) -> str:
        """What was held back: a character that stays unfinished shows as U+FFFD."""
        return self._of.decode(self._window)[self._shown :]

    def _show(self, text: str) -> str:
        whole = len(text) - text.endswith(UNFINISHED)
        piece, self._shown = text[self._shown : whole], max(whole, self._shown)
        if whole == len(text):
            del self._window[: self._settled]
            self._settle()
        elif len(self._window) >= WIDEST_WINDOW:
            self._cut(text)
        return piece

    def _settle(self) -> None:
        """All whole characters of the window have been shown; where it is whole altogether, the next token is read after it."""
        text = self._of.decode(self._window)
        self._shown = len(text) - text.endswith(UNFINISHED)
        self._settled = len(self._window) if self._shown == len(text) else 0

    def _cut(self, text: str) -> None:
        """Forget the front of a window that does not become whole, at a place that does not change how the rest reads."""
        last = len(self._window) - LONGEST_CHARACTER
        for place in range(last, last - LONGEST_CHARACTER, -1):
            front = self._of.decode(self._window[:place])
            if front + self._of.decode(self._window[place:]) == text:
                del self._window[:place]
                self._settled, self._shown = 0, self._shown - len(front)
                return
