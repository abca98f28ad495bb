"""`kbit quantize`: encodes a model's folder, tensor by tensor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kbit.cli.options import CalibrationArithmetic, Debug, Json, Overwrite, Threads
from kbit.cli.output import Output, verb
from kbit.cli.plan_options import byte_count, calibration_of, make_plan, rules_of
from kbit.cli.targets import Run, Target, one_way, read_plan, step_ms
from kbit.core.errors import SchemeError
from kbit.core.sizes import bytes_text

if TYPE_CHECKING:
    from kbit.model.quantize import QuantizeResult

__all__ = ["quantize"]


@verb
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the model: config.json and safetensors.")],
    output_folder: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    scheme: Annotated[
        str | None, typer.Option("--scheme", metavar="SCHEME", help="Scheme of the linear layers, such as nf4:g64 or int3:g128:asym:mse.")
    ] = None,
    target_bpw: Annotated[
        float | None, typer.Option(metavar="BITS", help="Most bits a weight, shared out so that the model loses least.")
    ] = None,
    target_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Most bytes of the weight files, such as 500MB.")] = None,
    target_ms: Annotated[float | None, typer.Option(metavar="MS", help="Most milliseconds a generated token, on this machine.")] = None,
    target_tokens_per_s: Annotated[float | None, typer.Option(metavar="N", help="The same as tokens a second.")] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="fast|good|best", help="How much is done for a target (best), which is 4.25 bits where none is given."),
    ] = None,
    plan_file: Annotated[str | None, typer.Option("--plan", metavar="FILE", help="Plan in JSON, as --json prints it.")] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME", help="Scheme of the embeddings: 16 leaves them as they are (default), auto (with a size) shares in it."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="SCHEME", help="Scheme of the output head, alike; a tied head follows the embedding.")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option(metavar="REGEX=SCHEME", help="Scheme of the modules whose name matches; repeatable.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="REGEX", help="Modules to leave alone; repeatable.")] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest size of one weight file.")] = "5GB",
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="What methods run: text, .jsonl with a 'text' or 'messages' a line, token ids (.npy, .bin), or 'self', which is "
            "what the model itself writes; may be given again.",
        ),
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="About so many tokens of it are used.")] = 131_072,
    calibration_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory for Hessians; what goes over it lies in files beside the output. No limit by default."),
    ] = None,
    calibration_arithmetic: CalibrationArithmetic = "auto",
    importance: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Instead of a calibration, for +imp: a file of kbit calibrate, or llama.cpp's imatrix."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Which stretches of the calibration text are used.")] = 0,
    sensitivity: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where losses of single weights are kept, to be used again for other targets.")
    ] = None,
    sensitivity_by: Annotated[
        str | None, typer.Option(metavar="measured|predicted", help="How they are found; by default measured where that is quick.")
    ] = None,
    fold: Annotated[
        str,
        typer.Option(
            metavar="none|values|all", help="Rotations (+rotate) that go into the weights around, where the model allows, and are not run."
        ),
    ] = "values",
    check: Annotated[bool, typer.Option("--check/--no-check", help="Run a few windows before the folder takes its place.")] = True,
    law: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Laws that kbit fit kept, whose band the check's loss is held against; else those of published rows."
        ),
    ] = None,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue an interrupted run with the same recipe.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode a model in k bits, by a scheme, or by the best known recipe for a size. Killed, it resumes where it was.

    A scheme is a data type with its bits (int, float, log, nf, quantile, dynamic, kmeans, trellis; vq2d3: 2 bits, codes for 3 weights)
    and options: gN weights share a scale (-1: one a row), asym, mse, e4m3, dq8. Methods after a + lose less:
    hqq by the weights alone; awq, imp, gptq, bias by inputs from a calibration text.
    With a target, each weight gets a scheme of its own by what the model loses with it: --target-bpw 3.25 --calibration FILE.
    """
    ways = {
        "--scheme": scheme,
        "--plan": plan_file,
        "--target-bpw": target_bpw,
        "--target-size": target_size,
        "--target-ms": target_ms,
        "--target-tokens-per-s": target_tokens_per_s,
    }
    one_way(ways, default="--quality" if quality else None)
    if (scheme or plan_file) and (quality or sensitivity or sensitivity_by):
        raise SchemeError("--quality and --sensitivity choose schemes: expected a target with them, got a scheme or plan")
    shard_bytes = byte_count(max_shard_size)
    text = calibration_of(calibration or [], calibration_tokens, seed)
    options = {"resume": resume, "overwrite": overwrite, "max_shard_bytes": shard_bytes, "threads": threads, "importance": importance}
    options["fold"] = fold
    options["calibration_arithmetic"] = calibration_arithmetic
    options["calibration_memory_bytes"] = None if calibration_memory is None else byte_count(calibration_memory)
    output, run = Output(json), Run(Path(model), Path(output_folder), text, check, law, options)
    if plan_file is not None:
        found = run.encode(read_plan(plan_file))
    elif scheme is not None:
        found = run.encode(make_plan(scheme, embedding or "16", head or "16", rule or [], skip or []))
    else:
        size = None if target_size is None else byte_count(target_size)
        target = Target(quality or "best", target_bpw, size, step_ms(target_ms, target_tokens_per_s), sensitivity, sensitivity_by)
        found = run.decide(output, target, (embedding, head), rules_of(rule or []), tuple(skip or []))
    band = run.band(found)
    _print(output, found, output_folder)
    if run.gate is not None and run.gate.result is not None:
        from kbit.allocate.gate import describe

        output.say(f"check             {describe(run.gate.result)}")
    if band is not None:
        from kbit.cli.alarm import describe as describe_band

        output.say(f"loss              {describe_band(band)}")
    output.result(found.to_json() | run.to_json() | {"band": None if band is None else band.to_json()})


def _print(output: Output, found: "QuantizeResult", folder: str) -> None:
    output.say(f"scheme            {found.scheme}")
    output.say(f"encoded           {found.modules} modules, {found.quantized_weights:,} of {found.parameters:,} weights")
    output.say(f"bits per weight   {found.bpw:.4f} of encoded weights, {found.bpw_file:.4f} of the whole file")
    output.say(f"file size         {bytes_text(found.file_bytes)}, from {bytes_text(found.source_bytes)}")
    output.say(f"time              {found.seconds:.1f} s")
    output.say(f"peak memory       {bytes_text(found.peak_rss_bytes)}, estimated {bytes_text(found.estimate_bytes)}")
    if found.calibration is not None:
        output.say(f"calibration       {found.calibration['tokens']:,} tokens in {found.calibration['windows']} windows")
        for name, rows in found.calibration["experts"].items():
            output.say(f"experts           {name}: {min(rows):,} to {max(rows):,} input rows each")
    for kept in found.kept:
        output.say(f"left in 16 bits   {kept.name}: {kept.reason}")
    for note in found.notes:
        output.say(f"note              {note}")
    output.say(f"written to        {folder}, root {found.root}")
