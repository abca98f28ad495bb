"""Draft and verify: several tokens from one step of the model, and the same text (Leviathan et al. 2023).

A draft of d tokens is fed behind the last token, and the step's d + 1 rows of logits are what the model says at each place. Row by row,
while the draft is accepted:

    nothing left to chance   the token that would have been chosen anyway is chosen; the draft is accepted where it says the same. So greedy
                             text, and drawn text under drafts from a lookup, are the same tokens with and without drafts.
    drawn drafts             a token x drawn from q is accepted with probability min(1, p(x) / q(x)), else one is drawn from (p − q)⁺. What
                             comes is distributed as p, whatever q is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.engine.drafts import Draft
from kbit.engine.draw import pick, uniform
from kbit.engine.history import History
from kbit.engine.sampling import choose, possible
from kbit.engine.sampling_options import SamplingOptions

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The token at one place of a draft.

    Attributes:
        token: what comes there.
        accepted: it is the draft's, so the next row is of use too.
    """

    token: int
    accepted: bool


def judge(row: NDArray[np.float32], draft: Draft, place: int, history: History, options: SamplingOptions) -> Verdict:
    """The next token, given a draft whose first `place` tokens have been accepted.

    Args:
        row: logits after `history`, float32 [vocabulary].
        draft: the guess; at `place` == its length there is none left, and the token is simply chosen.
        place: of the token in the draft.
        history: tokens so far, those accepted included.
        options: how tokens are chosen.

    Raises:
        NumericsError: NaN or Inf among the logits.
    """
    guessed = place < len(draft.tokens)
    if guessed and draft.probabilities is not None and options.draws:
        return _accept_or_replace(row, draft.tokens[place], draft.probabilities[place], history, options)
    token = choose(row, history.tokens, history.prompt_length, options)
    return Verdict(token, guessed and token == draft.tokens[place])


def _accept_or_replace(
    row: NDArray[np.float32], token: int, drawn_from: NDArray[np.float64], history: History, options: SamplingOptions
) -> Verdict:
    wanted = possible(row, history.tokens, history.prompt_length, options).dense(len(row))
    if uniform(options.seed, len(history), "accept") * drawn_from[token] < wanted[token]:
        return Verdict(token, True)
    rest = np.maximum(wanted - drawn_from, 0)
    # equal but for rounding: there is nothing to make up for
    rest = rest if rest.any() else wanted
    return Verdict(pick(rest, uniform(options.seed, len(history), "residual")), False)
