"""Text from a model: one call for `kbit run` and the demo, with the time of each half."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kbit.core.errors import LimitError, ModelError

__all__ = ["Generated", "Settings", "generate"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the next token is chosen.

    Attributes:
        max_tokens: new tokens at most; fewer where the model's context ends.
        beams: beam search with so many beams; 1 takes one token after the other.
        temperature: 0 takes the most likely token; above 0 tokens are drawn.
        top_p, top_k: draw from the smallest set of tokens with this probability, from this many tokens; 1 and 0 are off.
        seed: of the draw.
        no_repeat: no run of so many tokens appears twice; 0 is off.
    """

    max_tokens: int = 128
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    no_repeat: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """A continuation.

    Attributes:
        text: the continuation, without the prompt.
        token_ids: its tokens.
        finish_reason: ``stop`` (the model ended the text) or ``length``.
        prefill_ms: from the prompt to the first new token.
        decode_ms: from there to the end.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prefill_ms: float
    decode_ms: float


def generate(model: Any, tokenizer: Any, prompt: str, settings: Settings, *, stream: Callable[[str], None] | None = None) -> Generated:
    """Continue `prompt`; `stream` gets the text piece by piece (beam search gives it at once, at the end).

    Args:
        model: a causal language model of transformers.
        tokenizer: a `tokenizers.Tokenizer`.
        prompt: the text to continue.
        settings: how.
        stream: called with each piece of new text.

    Raises:
        ModelError: the prompt has no tokens.
        LimitError: the prompt fills the model's context.
    """
    import torch

    ids = tokenizer.encode(prompt).ids or _beginning(model)
    room = _room(model, ids)
    clock = _clock()
    pieces = None if stream is None or settings.beams > 1 else _Pieces(tokenizer, stream)
    torch.manual_seed(settings.seed)
    inputs = torch.tensor([ids])
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=min(settings.max_tokens, room),
            stopping_criteria=[clock],
            streamer=pieces,
            pad_token_id=next(iter(_ends(model)), 0),
            **_choice(settings),
        )
    ended = time.perf_counter()
    new = [int(token) for token in output[0, len(ids) :]]
    text = str(tokenizer.decode(new))
    if stream is not None and pieces is None:
        stream(text)
    first = clock.first or ended
    reason = "stop" if new and new[-1] in _ends(model) else "length"
    return Generated(text, new, reason, 1e3 * (first - started), 1e3 * (ended - first))


def _choice(settings: Settings) -> dict[str, Any]:
    """Arguments of transformers' `generate`."""
    choice: dict[str, Any] = {"num_beams": settings.beams, "do_sample": settings.temperature > 0}
    if settings.temperature > 0:
        choice |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
    if settings.no_repeat:
        choice["no_repeat_ngram_size"] = settings.no_repeat
    return choice


def _beginning(model: Any) -> list[int]:
    """What an empty prompt stands for: the token that begins a text."""
    beginning = model.generation_config.bos_token_id
    if beginning is None:
        raise ModelError("expected a prompt of at least one token, got none, and the model has no token to begin a text with")
    return [int(beginning)]


def _room(model: Any, ids: list[int]) -> int:
    """Tokens that still fit behind the prompt."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return 1 << 30
    if len(ids) >= longest:
        raise LimitError(f"expected a prompt shorter than the model's context of {longest} tokens, got {len(ids)}")
    return longest - len(ids)


def _ends(model: Any) -> list[int]:
    """Tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, list) else [int(ends)]


def _clock() -> Any:
    """A stopping criterion that never stops: it notes when the first new token was there."""
    import torch
    from transformers import StoppingCriteria

    class Clock(StoppingCriteria):  # type: ignore[misc]
        first: float | None = None

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            if self.first is None:
                self.first = time.perf_counter()
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    return Clock()


class _Pieces:
    """transformers' streamer interface: gets the prompt, then each token; passes on text once its characters are whole."""

    def __init__(self, tokenizer: Any, stream: Callable[[str], None]) -> None:
        self.tokenizer, self.stream = tokenizer, stream
        self.tokens: list[int] | None = None
        self.shown = ""

    def put(self, value: Any) -> None:
        if self.tokens is None:  # the first call brings the prompt
            self.tokens = []
            return
        self.tokens.extend(int(token) for token in value.reshape(-1))
        text = self.tokenizer.decode(self.tokens)
        if not text.endswith("\ufffd"):  # else a character whose other bytes are still to come
            self._show(text)

    def end(self) -> None:
        self._show(self.tokenizer.decode(self.tokens or []))

    def _show(self, text: str) -> None:
        if len(text) > len(self.shown):
            self.stream(text[len(self.shown) :])
            self.shown = text
