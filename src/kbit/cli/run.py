"""`kbit run`: text from a model, as it is written."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbit.cli.options import Bits, Debug, Json, Mode, Threads
from kbit.cli.output import Output, verb
from kbit.core.errors import FormatError

if TYPE_CHECKING:
    from kbit.engine.generated import Generated

__all__ = ["run"]


@verb
def run(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="New tokens at most.")] = 128,
    beams: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Beam search with so many beams.")] = 1,
    temperature: Annotated[float, typer.Option(metavar="X", min=0.0, help="0 takes the likeliest token; above 0 tokens are drawn.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="X", min=0.0, max=1.0, help="Draw from the likeliest tokens of this total probability.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(metavar="N", min=0, help="Draw from so many of the likeliest tokens; 0 means all.")] = 0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Seed of the draw.")] = 0,
    no_repeat: Annotated[int, typer.Option(metavar="N", min=0, help="Never write a run of so many tokens twice; 0 is off.")] = 0,
    min_p: Annotated[float, typer.Option(metavar="X", min=0.0, max=1.0, help="Draw from tokens with this share of the likeliest's.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(metavar="X", help="Divide the scores of tokens that were there; 1 is off.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(metavar="X", help="Taken from the score of each token written.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(metavar="X", help="Taken from it for each time it was written.")] = 0.0,
    length_penalty: Annotated[float, typer.Option(metavar="X", help="Of beam search: above 0 favours long texts.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given again.")] = None,
    logprobs: Annotated[int | None, typer.Option(metavar="N", min=0, help="With --json: log-probabilities and N likeliest tokens.")] = None,
    max_time_ms: Annotated[float | None, typer.Option(metavar="MS", help="Return what has come by then.")] = None,
    cache: Annotated[str, typer.Option(metavar="FORMAT", help="Keys and values as fp32, fp16, int8, int4 or int3.")] = "fp16",
    mapped: Annotated[bool, typer.Option("--mapped", help="Use the file's own pages: quickest start, least memory.")] = False,
    bits: Bits = None,
    mode: Mode = "fast",
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt. The prompt and its continuation are printed as they are written.

    A model that encodes one text and decodes another (T5, BART, Marian) is given the prompt as the one; the other is printed.
    """
    if (top_p < 1 or top_k > 0 or min_p > 0) and temperature == 0:
        raise typer.BadParameter("--top-p, --top-k and --min-p choose among tokens to draw from: give --temperature above 0 too")
    from kbit.cli.writer import open_writer
    from kbit.engine.beam_options import BeamOptions
    from kbit.engine.generate_options import GenerateOptions
    from kbit.engine.sampling_options import SamplingOptions

    output = Output(json)
    text = _text(sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt))
    penalties = (repetition_penalty, presence_penalty, frequency_penalty)
    sampling = SamplingOptions(temperature, top_k, top_p, min_p, *penalties, no_repeat_ngram=no_repeat, seed=seed)
    beam = BeamOptions(beams, length_penalty)
    options = GenerateOptions(max_tokens, sampling, beam, stop=tuple(stop or ()), max_time_ms=max_time_ms, logprobs=logprobs)
    _use_threads(threads)
    writer = open_writer(Path(model), mode=mode, cache=cache, mapped=mapped, bits=bits)
    if json:
        output.result(_facts(writer.write(text, options), writer.name))
        return
    print(text if writer.continues else "", end="", flush=True)
    found = writer.write(text, options, stream=lambda piece: print(piece, end="", flush=True))
    print()
    output.note(_summary(found.prefill_ms, found.decode_ms, len(found.token_ids)))


def _facts(found: "Generated", runner: str) -> dict[str, Any]:
    """The contract's keys, what ran, and log-probabilities where they were asked for."""
    facts = {name: getattr(found, name) for name in ("text", "token_ids", "finish_reason", "prefill_ms", "decode_ms")}
    logprobs = None if found.logprobs is None else [asdict(one) for one in found.logprobs]
    return facts | {"runner": runner, "logprobs": logprobs}


def _use_threads(count: int) -> None:
    """The engine's threads; torch is not asked for what it may not be needed for."""
    if count:
        from kbit import native

        native.set_threads(count)


def _text(prompt: bytes) -> str:
    try:
        return prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"expected a prompt in UTF-8, got byte 0x{prompt[error.start]:02x} at offset {error.start}") from None


def _summary(prefill_ms: float, decode_ms: float, tokens: int) -> str:
    rate = f", {1e3 * (tokens - 1) / decode_ms:.1f} tokens/s" if tokens > 1 and decode_ms > 0 else ""
    return f"[prefill {prefill_ms:.0f} ms, {tokens} tokens in {decode_ms:.0f} ms{rate}]"
