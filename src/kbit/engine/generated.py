"""What came of a prompt."""

from dataclasses import dataclass

from kbit.engine.logprobs import TokenLogprob
from kbit.engine.request import FinishReason

__all__ = ["Generated"]


@dataclass(frozen=True, slots=True)
class Generated:
    """A continuation.

    Attributes:
        text: the continuation, without the prompt, without special tokens, and up to a stop string.
        token_ids: all tokens that were chosen, those of a stop string and the one that ended the output included.
        finish_reason: ``stop`` (an ending token or a stop string), ``length`` (`max_tokens`, the context or the cache is used up),
            ``deadline``, ``cancelled`` or ``error``.
        prefill_ms: from the prompt to the first new token.
        decode_ms: from there to the end.
        logprobs: of the tokens, where asked for.
        prompt_logprobs: of the prompt's tokens, where asked for; None for the first, which follows nothing.
        stop: the stop string that ended it.
        score: of a beam search: log-probability / length ** length_penalty.
        others: further continuations of a beam search, best first.
        error: what went wrong, with ``error``.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    stop: str | None = None
    score: float | None = None
    others: tuple["Generated", ...] = ()
    error: Exception | None = None
