"""`kbit run`: text from a model, as it is written."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kbit.cli.generation import Settings, generate
from kbit.cli.options import Debug, Json, Mode, Threads
from kbit.cli.output import Output, verb
from kbit.core.errors import FormatError

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
    mode: Mode = "fast",
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt. The prompt and its continuation are printed as they are written."""
    if (top_p < 1 or top_k > 0) and temperature == 0:
        raise typer.BadParameter("--top-p and --top-k choose among tokens to draw from: give --temperature above 0 too")
    from kbit.cli.threads import use_threads
    from kbit.evaluate.models import load_causal_model, load_tokenizer

    output = Output(json)
    text = _text(sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt))
    use_threads(threads)
    loaded, tokenizer = load_causal_model(Path(model), mode=mode), load_tokenizer(Path(model))
    settings = Settings(max_tokens, beams, temperature, top_p, top_k, seed, no_repeat)
    if json:
        output.result(asdict(generate(loaded, tokenizer, text, settings)))
        return
    print(text, end="", flush=True)
    found = generate(loaded, tokenizer, text, settings, stream=lambda piece: print(piece, end="", flush=True))
    print()
    output.note(_summary(found.prefill_ms, found.decode_ms, len(found.token_ids)))


def _text(prompt: bytes) -> str:
    try:
        return prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"expected a prompt in UTF-8, got byte 0x{prompt[error.start]:02x} at offset {error.start}") from None


def _summary(prefill_ms: float, decode_ms: float, tokens: int) -> str:
    rate = f", {1e3 * (tokens - 1) / decode_ms:.1f} tokens/s" if tokens > 1 and decode_ms > 0 else ""
    return f"[prefill {prefill_ms:.0f} ms, {tokens} tokens in {decode_ms:.0f} ms{rate}]"
