"""Text from a model: one call for `kbit run` and the demo, with the time of each half."""

import time
from collections.abc import Callable
from typing import Any

from kbit.core.errors import LimitError, ModelError
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.request import FinishReason

__all__ = ["generate"]


def generate(
    model: Any, tokenizer: Any, prompt: str, options: GenerateOptions, *, stream: Callable[[str], None] | None = None
) -> Generated:
    """Continue `prompt`; `stream` gets the text piece by piece (beam search gives it at once, at the end).

    Args:
        model: a causal language model of transformers.
        tokenizer: a `tokenizers.Tokenizer`.
        prompt: the text to continue.
        options: how.
        stream: called with each piece of new text.

    Raises:
        ModelError: the prompt has no tokens.
        LimitError: the prompt fills the model's context.
    """
    import torch

    ids = tokenizer.encode(prompt).ids or _beginning(model)
    room = _room(model, ids)
    clock = _clock()
    pieces = None if stream is None or options.beam.beams > 1 else _Pieces(tokenizer, stream)
    torch.manual_seed(options.sampling.seed)
    inputs = torch.tensor([ids])
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=min(options.max_tokens, room),
            stopping_criteria=[clock],
            streamer=pieces,
            pad_token_id=next(iter(_ends(model)), 0),
            **_choice(options),
        )
    ended = time.perf_counter()
    new = [int(token) for token in output[0, len(ids) :]]
    text = str(tokenizer.decode(new))
    if stream is not None and pieces is None:
        stream(text)
    first = clock.first or ended
    reason: FinishReason = "stop" if new and new[-1] in _ends(model) else "length"
    return Generated(text, new, reason, 1e3 * (first - started), 1e3 * (ended - first))


def _choice(options: GenerateOptions) -> dict[str, Any]:
    """Arguments of transformers' `generate`."""
    sampling, beam = options.sampling, options.beam
    unknown = {
        "stop": options.stop,
        "logprobs": options.logprobs is not None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if asked := [name for name, value in unknown.items() if value]:
        raise ModelError(f"{', '.join(asked)}: kbit's engine does it, and the engine does not know this architecture")
    choice: dict[str, Any] = {"num_beams": beam.beams, "do_sample": sampling.draws, "repetition_penalty": sampling.repetition_penalty}
    if beam.beams > 1:
        choice |= {"length_penalty": beam.length_penalty, "early_stopping": beam.early_stopping}
    if sampling.draws:
        choice |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p or None}
    if sampling.no_repeat_ngram:
        choice["no_repeat_ngram_size"] = sampling.no_repeat_ngram
    if options.max_time_ms is not None:
        choice["max_time"] = options.max_time_ms / 1e3
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
