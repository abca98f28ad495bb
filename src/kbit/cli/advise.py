"""`kbit advise`: which model at which k, for a memory, a speed and a loss."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from kbit.cli.amounts import parse_bytes, parse_positions
from kbit.cli.options import Debug, Json, Threads
from kbit.cli.output import Output, columns, verb
from kbit.core.sizes import bytes_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kbit.engine.cache import CacheFormat
    from kbit.study.advise import Advice
    from kbit.study.advise.candidates import Candidate

__all__ = ["advise"]

#: nats between two lines of the frontier's table; the JSON has all of it
_STEP = 0.01


@verb
def advise(
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory for all of it, such as 8GB or 6.5GiB.")],
    min_speed: Annotated[
        float | None, typer.Option("--min-speed", metavar="TOKENS/S", help="Least speed of decoding with a full context, on this machine.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option("--max-loss", metavar="NATS", help="Largest expected loss a token, on the text of the law.")
    ] = None,
    context: Annotated[str, typer.Option("--context", metavar="N", help="Positions of the cache, such as 4096 or 16k.")] = "4096",
    family: Annotated[
        str | None, typer.Option("--family", metavar="F", help="A known family, such as llama-3; with folders: what the law calls theirs.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="MODEL", help="A known model, or a folder with a config.json; may be given again, or several at once."
        ),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="More models.")] = None,
    law: Annotated[
        str | None, typer.Option("--law", metavar="FILE", help="Laws that kbit fit kept; by default those of published rows.")
    ] = None,
    schemes: Annotated[
        list[str] | None, typer.Option("--scheme", metavar="SCHEME", help="Try this scheme instead of the usual ones; may be given again.")
    ] = None,
    embedding: Annotated[
        str, typer.Option("--embedding", metavar="SCHEME", help="Scheme of embedding and head; 16 leaves them alone.")
    ] = "16",
    cache: Annotated[str, typer.Option("--cache", metavar="FORMAT", help="Keys and values: fp32, fp16, int8, int4 or int3.")] = "fp16",
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure", metavar="TEXT", help="Measure the originals on this text, a minute each; models are folders with weights."
        ),
    ] = None,
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Advise on model and scheme for a memory budget: three options with expected loss, bytes and speed, before any download."""
    from kbit.study.advise import SCHEMES
    from kbit.study.advise import advise as find_advice

    output = Output(json)
    budget, positions = parse_bytes(memory, "--memory"), parse_positions(context, "--context")
    output.note("measuring what this machine does at most…")
    advice = find_advice(
        budget,
        family=family,
        models=[*(models or []), *(more or [])] or None,
        min_tokens_per_s=min_speed,
        max_loss=max_loss,
        context=positions,
        cache=cast("CacheFormat", cache),
        schemes=schemes or SCHEMES,
        embedding=embedding,
        law=law,
        measure=measure,
        threads=threads,
    )
    _say(advice, budget, output)
    output.result(advice.to_json())


def _say(advice: "Advice", budget: int, output: Output) -> None:
    if not advice.options:
        output.say(f"Nothing fits {bytes_text(budget)} with these limits. The nearest that something meets:")
        for one in advice.nearest:
            asked, nearest = (bytes_text(value) if one.limit == "memory" else f"{value:.3g}" for value in (one.asked, one.nearest))
            output.say(f"  {one.limit} {nearest} instead of {asked}: {_line(one.candidate)}")
    for option in advice.options:
        output.say(f"{option.label:<9} {_line(option.candidate)}")
        output.say(f"          {option.reason}")
        if option.candidate.note:
            output.say(f"          wide interval: {option.candidate.note}")
    for warning in advice.warnings:
        output.say(f"note: {warning}")
    if advice.frontier:
        output.say()
        output.say("The frontier: what no other beats in memory, loss and speed at once (steps of 0.01 nats):")
        output.say(_table(_thinned(advice.frontier)))
        output.say("loss in nats a token on the law's text, with its 90 % interval; memory is weights, cache, workspace and the process")


def _thinned(frontier: "Sequence[Candidate]") -> "list[Candidate]":
    """Those that are worth a line: each expected to lose at least `_STEP` nats less than the one before."""
    kept: list[Candidate] = []
    for one in frontier:
        if not kept or one.loss <= kept[-1].loss - _STEP:
            kept.append(one)
    return kept


def _line(one: "Candidate") -> str:
    interval = f"{one.loss_low:.2f}…{one.loss_high:.2f}"
    return f"{one.model} {one.scheme}: loss {one.loss:.3f} ({interval}), {bytes_text(one.bytes)}, {one.tokens_per_s:.3g} tokens/s"


def _table(candidates: "Sequence[Candidate]") -> str:
    rows = [
        [
            one.model,
            one.scheme,
            f"{one.footprint.bpw:.2f}",
            f"{one.loss:.3f}",
            f"{one.loss_low:.2f}…{one.loss_high:.2f}",
            bytes_text(one.bytes),
            bytes_text(one.footprint.kv_bytes),
            f"{one.tokens_per_s:.3g}",
        ]
        for one in candidates
    ]
    return columns(["model", "scheme", "bpw", "loss", "interval", "memory", "of it cache", "tokens/s"], rows, left=2)
