"""`kbit bench`: how fast a model reads and writes on this machine, beside what the machine could do at most."""

from typing import Annotated

import typer

from kbit.cli.options import Debug, Json, Mode, Threads
from kbit.cli.output import Output, verb
from kbit.core.sizes import bytes_text, count_text

__all__ = ["bench"]


@verb
def bench(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model.")],
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Tokens read in one go (prefill).")] = 512,
    decode: Annotated[int, typer.Option("--decode", metavar="N", min=1, help="Tokens written one by one (decode).")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Measured repeats; the medians are shown.")] = 3,
    mode: Mode = "fast",
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure prefill and decode speed at batch 1, and the share of the memory roof that decoding reaches."""
    from kbit.evaluate.speed import bench_folder

    output = Output(json)
    found = bench_folder(model, mode=mode, threads=threads, prompt_tokens=prompt, decode_tokens=decode, repeats=repeats)
    share = found.decode_gb_per_s / found.memory_roof_gb_per_s
    output.say(f"prefill      {found.prefill_tokens_per_s:>10.1f} tokens/s   ({found.prompt_tokens} tokens)")
    output.say(f"decode       {found.decode_tokens_per_s:>10.1f} tokens/s   ({found.decode_tokens} tokens)")
    output.say(f"weights read {found.decode_gb_per_s:>10.2f} GB/s while decoding, {share:.0%} of the roof")
    output.say(f"memory roof  {found.memory_roof_gb_per_s:>10.2f} GB/s   (probed between the repeats)")
    output.say(f"int8 roof    {found.int8_roof_gmac_per_s:>10.1f} G multiply-adds/s")
    how = f"{count_text(found.threads, 'thread')}, {found.isa}, {found.runner}"
    output.say(f"{how}, loaded in {found.load_seconds or 0:.1f} s, peak memory {bytes_text(found.peak_rss_bytes)}")
    output.result(found.to_json())
