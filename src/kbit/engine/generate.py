"""Text from a model, in one call: whole, in pieces as it comes, or for many prompts at once.

    generate(stepper, tokenizer, "The old house", GenerateOptions(max_tokens=40))    → Generated
    for piece in stream_generate(stepper, tokenizer, "The old house"): …             pieces, then .result
    generate_batch(stepper, tokenizer, ["One", "Two"])                               each as it would be alone

Whatever ends a call, Ctrl-C in the middle of it included, its sequences are freed and the stepper can be used again.
"""

from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Self

from tokenizers import Tokenizer

from kbit.core.errors import SchemeError
from kbit.engine.batch import Scheduler
from kbit.engine.beam_text import beam_text
from kbit.engine.detokenize import Detokenizer
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.prompts import Prompt, prompt_ids
from kbit.engine.stepper import Stepper
from kbit.engine.writing import Writing

__all__ = ["TextStream", "generate", "generate_batch", "stream_generate"]

DEFAULTS = GenerateOptions()


def generate(
    stepper: Stepper, tokenizer: Tokenizer, prompt: Prompt, options: GenerateOptions = DEFAULTS, *, bos: int | None = None
) -> Generated:
    """Continue a prompt.

    Args:
        stepper: of the model.
        tokenizer: of the model.
        prompt: a text, or token ids.
        options: how; `options.ends` must have the tokens with which the model ends a text.
        bos: the token that begins a text, which stands for an empty prompt; None where the model has none.

    Raises:
        ModelError: an empty prompt without `bos`, a token outside the vocabulary, a draft model of another vocabulary.
        LimitError: a prompt that leaves no room in the context, or more than the cache holds.
        NumericsError: NaN or Inf among the logits, or every token forbidden.
        FormatError: a text that UTF-8 cannot hold.
        SchemeError: a bias for a token outside the vocabulary.
    """
    with stream_generate(stepper, tokenizer, prompt, options, bos=bos) as stream:
        for _ in stream:
            pass
        return stream.result


def stream_generate(
    stepper: Stepper, tokenizer: Tokenizer, prompt: Prompt, options: GenerateOptions = DEFAULTS, *, bos: int | None = None
) -> "TextStream":
    """Continue a prompt piece by piece; arguments and errors as `generate`, those of the arguments at once."""
    ids, detokenizer = prompt_ids(prompt, tokenizer, stepper, bos), Detokenizer(tokenizer)
    options.sampling.check_vocabulary(stepper.vocabulary)
    if options.beam.beams > 1:
        return TextStream(_beams(stepper, detokenizer, ids, options))
    return TextStream(_steps(stepper, Writing(ids, detokenizer, options, stepper.vocabulary)))


def generate_batch(
    stepper: Stepper, tokenizer: Tokenizer, prompts: Sequence[Prompt], options: GenerateOptions = DEFAULTS, *, bos: int | None = None
) -> list[Generated]:
    """Continue many prompts together, each as `generate` would; one that fails has finish reason ``error`` and its ``error``.

    Raises:
        KbitError: as `generate`, for any of the prompts, before the first step.
    """
    ids = [prompt_ids(prompt, tokenizer, stepper, bos) for prompt in prompts]
    detokenizer = Detokenizer(tokenizer)
    if options.beam.beams > 1:
        return [beam_text(stepper, detokenizer, prompt, options) for prompt in ids]
    writings = [Writing(prompt, detokenizer, options, stepper.vocabulary) for prompt in ids]
    with Scheduler(stepper) as batch:
        outputs = [batch.submit(writing.request) for writing in writings]
        batch.run()
    return [writing.result(output) for writing, output in zip(writings, outputs, strict=True)]


class TextStream(Iterator[str]):
    """Pieces of text as they come; beam search gives its text at the end, as one. Leaving it early frees what it holds.

    Args:
        source: gives pieces and returns the whole.
    """

    def __init__(self, source: Generator[str, None, Generated]) -> None:
        self._source = source
        self._result: Generated | None = None

    def __next__(self) -> str:
        try:
            return next(self._source)
        except StopIteration as end:
            self._result = end.value or self._result
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def result(self) -> Generated:
        """The whole, once the last piece has come.

        Raises:
            SchemeError: it has not.
        """
        if self._result is None:
            raise SchemeError("expected a stream that was read to its end, got one with pieces left, or that failed")
        return self._result

    def close(self) -> None:
        """End it here; what it holds is freed."""
        self._source.close()


def _steps(stepper: Stepper, writing: Writing) -> Generator[str, None, Generated]:
    with Scheduler(stepper, kept_prefixes=0) as batch:
        output = batch.submit(writing.request)
        while not output.finished:
            batch.step()
            yield from writing.take()
    result = writing.result(output)
    yield from writing.take()
    if output.error is not None:
        raise output.error
    return result


def _beams(
    stepper: Stepper, detokenizer: Detokenizer, prompt: tuple[int, ...], options: GenerateOptions
) -> Generator[str, None, Generated]:
    result = beam_text(stepper, detokenizer, prompt, options)
    if result.text:
        yield result.text
    return result
