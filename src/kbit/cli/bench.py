"""`kbit bench`: how fast a model reads and writes on this machine, beside what it could do at most; `--tune`: by which kernels."""

from typing import TYPE_CHECKING, Annotated

import typer

from kbit.cli.options import Bits, Debug, Json, Mode, Threads
from kbit.cli.output import Output, columns, verb
from kbit.core.sizes import bytes_text, count_text

if TYPE_CHECKING:
    from kbit.evaluate.speed import SpeedResult
    from kbit.evaluate.tune import Tuned

__all__ = ["bench"]


@verb
def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model; may be left out with --tune.")
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Instead: measure which kernels are the fastest for the matrices of DIR (a standard set without it), and keep the choice "
            "for all models on this machine.",
        ),
    ] = False,
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Tokens read in one go (prefill).")] = 512,
    decode: Annotated[int, typer.Option("--decode", metavar="N", min=1, help="Tokens written one by one (decode).")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Measured repeats; the medians are shown.")] = 3,
    bits: Bits = None,
    mode: Mode = "fast",
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure prefill and decode speed at batch 1, and the share of the memory roof that decoding reaches."""
    output = Output(json)
    if tune:
        _tune(model, repeats, threads, output)
    elif model is None:
        raise typer.BadParameter("DIR may be left out with --tune only")
    else:
        from kbit.evaluate.speed import bench_folder

        found = bench_folder(model, mode=mode, bits=bits, threads=threads, prompt_tokens=prompt, decode_tokens=decode, repeats=repeats)
        _say(found, output)


def _say(found: "SpeedResult", output: Output) -> None:
    share = found.decode_gb_per_s / found.memory_roof_gb_per_s
    output.say(f"prefill      {found.prefill_tokens_per_s:>10.1f} tokens/s   ({found.prompt_tokens} tokens)")
    output.say(f"decode       {found.decode_tokens_per_s:>10.1f} tokens/s   ({found.decode_tokens} tokens)")
    output.say(f"weights read {found.decode_gb_per_s:>10.2f} GB/s while decoding, {share:.0%} of the roof")
    output.say(f"memory roof  {found.memory_roof_gb_per_s:>10.2f} GB/s   (probed between the repeats)")
    output.say(f"int8 roof    {found.int8_roof_gmac_per_s:>10.1f} G multiply-adds/s")
    how = f"{count_text(found.threads, 'thread')}, {found.isa}, {found.runner}"
    output.say(f"{how}, loaded in {found.load_seconds or 0:.1f} s, peak memory {bytes_text(found.peak_rss_bytes)}")
    output.result(found.to_json())


def _tune(model: str | None, rounds: int, threads: int, output: Output) -> None:
    from kbit.evaluate.tune import tune

    tuned = tune(
        model,
        threads=threads,
        rounds=rounds,
        progress=lambda choice: output.note(
            f"k = {choice.kind.bits}, {choice.kind.rows}×{choice.kind.cols}, {choice.tokens}: {choice.variant}"
        ),
    )
    output.say(_table(tuned))
    output.say(f"kept in {tuned.path} for {tuned.tuning.machine}")
    choices = [{**choice, "default": default} for choice, default in zip(tuned.tuning.to_json()["choices"], tuned.defaults, strict=True)]
    output.result({"path": str(tuned.path), **tuned.tuning.to_json(), "choices": choices})


def _table(tuned: "Tuned") -> str:
    rows = [
        (
            str(choice.kind.bits),
            "line" if choice.kind.straight else "table",
            str(choice.kind.group),
            f"{choice.kind.rows}×{choice.kind.cols}",
            {"one": "1", "few": "2…4"}[choice.tokens],
            choice.variant,
            default,
            f"{choice.gain - 1:+.0%}" if choice.variant != default else "",
        )
        for choice, default in zip(tuned.tuning.choices, tuned.defaults, strict=True)
    ]
    return columns(("k", "codebook", "group", "shape", "tokens", "chosen", "default", "gain"), rows, left=7)
