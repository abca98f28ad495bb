"""One prompt on its way to a text: the request for a batch, and the text that its tokens make."""

from kbit.engine.detokenize import Detokenizer
from kbit.engine.draft_model import DraftModel
from kbit.engine.drafts import Drafter
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.prompt_lookup import PromptLookup
from kbit.engine.request import Output, Request
from kbit.engine.text import OutputText

__all__ = ["Writing"]


class Writing:
    """Collects pieces of text while its request runs.

    Args:
        prompt: token ids.
        detokenizer: of the model.
        options: of the generation.
        vocabulary: of the model.

    Attributes:
        request: to submit to a batch.
    """

    def __init__(self, prompt: tuple[int, ...], detokenizer: Detokenizer, options: GenerateOptions, vocabulary: int) -> None:
        self._text = OutputText(detokenizer, prompt, options.stop)
        self._pieces: list[str] = []
        self.request = Request(
            prompt,
            options.max_tokens,
            options.sampling,
            options.ends,
            options.max_time_ms,
            options.logprobs,
            options.prompt_logprobs,
            self._write,
            _drafter(options, vocabulary),
        )

    def take(self) -> list[str]:
        """The pieces that have come since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def result(self, output: Output) -> Generated:
        """What came, once the output has finished; the rest of the text is the last piece."""
        assert output.finish_reason is not None  # the batch says when it is over
        self._keep(self._text.end())
        return Generated(
            text=self._text.text,
            token_ids=output.tokens.tolist(),
            finish_reason="stop" if self._text.stop is not None else output.finish_reason,
            prefill_ms=output.prefill_ms,
            decode_ms=output.decode_ms,
            logprobs=None if self.request.logprobs is None else tuple(output.logprobs),
            prompt_logprobs=None if self.request.prompt_logprobs is None else tuple(output.prompt_logprobs),
            stop=self._text.stop,
            error=output.error,
        )

    def _write(self, token: int) -> bool:
        self._keep(self._text.push(token))
        return self._text.stop is not None

    def _keep(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)


def _drafter(options: GenerateOptions, vocabulary: int) -> Drafter | None:
    if options.speculate is None:
        return None
    if isinstance(options.speculate, str):  # "lookup"
        return PromptLookup()
    return DraftModel(options.speculate, options.sampling, vocabulary)
