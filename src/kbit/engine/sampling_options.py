"""How the next token is chosen, as a value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kbit.core.errors import SchemeError
from kbit.engine.checks import check_count, check_number

__all__ = ["SamplingOptions"]

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What changes the scores of tokens, and how one is taken. The defaults take the likeliest token.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 tokens are drawn from softmax(scores / temperature).
        top_k: draw from so many of the likeliest tokens (and those that tie with the last of them); 0 is off.
        top_p: draw from the fewest likeliest tokens whose probabilities reach this sum; 1 is off.
        min_p: draw from tokens with at least this share of the likeliest token's probability; 0 is off.
        repetition_penalty: scores of tokens in prompt and output are divided by it where positive, else multiplied (Keskar et al. 2019).
        presence_penalty: taken from the score of each token that the output has.
        frequency_penalty: taken from it once for each time that the output has it.
        logit_bias: token → number added to its score; -inf forbids it.
        no_repeat_ngram: no run of so many tokens, prompt included, comes twice; 0 is off.
        seed: of the draw, 0…2⁶⁴ − 1.

    Raises:
        SchemeError: a value that is no number, or out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    no_repeat_ngram: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0)
        check_count("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, 0, 1)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0, open_low=True)
        check_number("presence_penalty", self.presence_penalty, -math.inf)
        check_number("frequency_penalty", self.frequency_penalty, -math.inf)
        check_count("no_repeat_ngram", self.no_repeat_ngram, 0)
        check_count("seed", self.seed, 0, MAX_SEED)
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    def check_vocabulary(self, vocabulary: int) -> None:
        """These options are for a model of so many tokens.

        Raises:
            SchemeError: a bias for a token outside the vocabulary.
        """
        largest = max(self.logit_bias, default=0)
        if largest >= vocabulary:
            raise SchemeError(f"expected logit_bias of tokens below {vocabulary} (the model's vocabulary), got token {largest}")

    @property
    def draws(self) -> bool:
        """Tokens are drawn, not just the likeliest taken."""
        return self.temperature > 0


def _checked_bias(bias: Mapping[int, float]) -> Mapping[int, float]:
    if not isinstance(bias, Mapping):
        raise SchemeError(f"expected logit_bias to map tokens to numbers, got {type(bias).__name__}")
    for token, value in bias.items():
        check_count("a token of logit_bias", token, 0)
        if value != -math.inf:
            check_number(f"logit_bias of token {token}", value, -math.inf)
    return MappingProxyType(dict(bias))
