"""Text by beam search: the best continuations, each up to its stop string."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kbit.engine.beam import BeamSearch, Hypothesis
from kbit.engine.detokenize import Detokenizer
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.request import FinishReason
from kbit.engine.stepper import Stepper
from kbit.engine.text import OutputText

__all__ = ["beam_text"]


def beam_text(stepper: Stepper, detokenizer: Detokenizer, prompt: tuple[int, ...], options: GenerateOptions) -> Generated:
    """The best continuation, with the other ones asked for in `others`.

    Raises:
        LimitError: the cache cannot hold the beams.
        NumericsError: NaN or Inf among the logits.
    """
    room = stepper.context - len(prompt) if stepper.context else options.max_tokens
    search = BeamSearch(
        stepper,
        options.beam,
        options.sampling,
        max_tokens=min(options.max_tokens, room),
        ends=options.ends,
        finishes=_has_stop(detokenizer, options.stop) if options.stop else None,
        logprobs=options.logprobs,
    )
    began = time.perf_counter()
    first: list[float] = []

    def expired() -> bool:
        return options.max_time_ms is not None and 1e3 * (time.perf_counter() - began) >= options.max_time_ms

    found = search.run(prompt, expired, lambda: first.append(time.perf_counter()))
    ended = time.perf_counter()
    times = 1e3 * (first[0] - began), 1e3 * (ended - first[0])
    texts = [_generated(one, detokenizer, len(prompt), options, search.expired, times) for one in found]
    return replace(texts[0], others=tuple(texts[1:]))


def _has_stop(detokenizer: Detokenizer, stops: tuple[str, ...]) -> Callable[[NDArray[np.int32]], bool]:
    """Whether an output ends with a stop string. A token is a byte at least, so a short tail is enough to see one."""
    tail = 1 + max(len(stop.encode()) for stop in stops)

    def has_stop(output: NDArray[np.int32]) -> bool:
        text = detokenizer.decode(output[-tail:].tolist())
        return any(stop in text for stop in stops)

    return has_stop


def _generated(
    one: Hypothesis, detokenizer: Detokenizer, prompt: int, options: GenerateOptions, expired: bool, times: tuple[float, float]
) -> Generated:
    text = OutputText(detokenizer, one.tokens[:prompt].tolist(), options.stop)
    tokens = one.tokens[prompt:].tolist()
    for token in tokens:
        if token not in options.ends:
            text.push(token)
    text.end()
    return Generated(
        text=text.text,
        token_ids=tokens,
        finish_reason=_reason(tokens, text, options, expired),
        prefill_ms=times[0],
        decode_ms=times[1],
        logprobs=None if options.logprobs is None else one.logprobs,
        stop=text.stop,
        score=float(one.score),
    )


def _reason(tokens: list[int], text: OutputText, options: GenerateOptions, expired: bool) -> FinishReason:
    if text.stop is not None or (tokens and tokens[-1] in options.ends):
        return "stop"
    return "deadline" if expired else "length"
