"""`kbit quantize`: encodes a model's folder, tensor by tensor."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from kbit.cli.options import Debug, Json, Overwrite, Threads
from kbit.cli.output import Output, verb
from kbit.core.errors import SchemeError
from kbit.core.scheme import Plan, Scheme
from kbit.core.sizes import bytes_text

if TYPE_CHECKING:
    from kbit.model.quantize import QuantizeResult

__all__ = ["byte_count", "make_plan", "quantize"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@verb
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the model: config.json and safetensors.")],
    scheme: Annotated[
        str, typer.Option("--scheme", metavar="SCHEME", help="Scheme of the linear layers, such as nf4:g64 or int3:g128:asym:mse.")
    ],
    output_folder: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    embedding: Annotated[str, typer.Option(metavar="SCHEME", help="Scheme of the embeddings; 16 leaves them as they are.")] = "16",
    head: Annotated[str, typer.Option(metavar="SCHEME", help="Scheme of the output head; a tied head follows the embedding.")] = "16",
    rule: Annotated[
        list[str] | None, typer.Option(metavar="REGEX=SCHEME", help="Scheme of the modules whose name matches; repeatable.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="REGEX", help="Modules to leave alone; repeatable.")] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest size of one weight file.")] = "5GB",
    calibration: Annotated[
        list[str] | None,
        typer.Option("--calibration", metavar="FILE", help="Text, or .jsonl with a 'text' a line, that methods run; may be given again."),
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="About so many tokens of it are used.")] = 131_072,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Which stretches of the calibration text are used.")] = 0,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue an interrupted run with the same recipe.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode a model in k bits, shard by shard: it never has to fit into memory. Killed, it resumes where it was.

    A scheme is a data type with its bits (int, float, log, nf, quantile, dynamic, kmeans, trellis; vq2d3: 2 bits, codes for 3 weights)
    and options: gN weights share a scale (-1: one a row), asym, mse, e4m3, dq8. Methods after a + lose less by looking at inputs from a
    calibration text: imp, gptq, imp+gptq.
    """
    plan = make_plan(scheme, embedding, head, rule or [], skip or [])
    shard_bytes = byte_count(max_shard_size)
    from kbit.calibrate.text import CalibrationText
    from kbit.model.quantize import quantize_folder

    text = CalibrationText(tuple(calibration), tokens=calibration_tokens, seed=seed) if calibration else None
    output = Output(json)
    found = quantize_folder(
        model,
        output_folder,
        plan,
        calibration=text,
        resume=resume,
        overwrite=overwrite,
        max_shard_bytes=shard_bytes,
        threads=threads,
        progress=True,
    )
    _print(output, found, output_folder)
    output.result(found.to_json())


def make_plan(scheme: str, embedding: str, head: str, rules: list[str], skip: list[str]) -> Plan:
    """The plan that the options describe.

    Raises:
        SchemeError: a scheme, rule or pattern that cannot be understood.
    """
    pairs = []
    for rule in rules:
        pattern, equals, text = rule.rpartition("=")
        if not equals or not pattern:
            raise SchemeError(f"expected --rule REGEX=SCHEME, such as 'layers[.]0[.]=int8:g64', got {rule!r}")
        pairs.append((pattern, Scheme.parse(text)))
    return Plan(
        default=Scheme.parse(scheme), embedding=Scheme.parse(embedding), head=Scheme.parse(head), rules=tuple(pairs), skip=tuple(skip)
    )


def byte_count(text: str) -> int:
    """A size such as ``5GB``, ``500MB`` or ``2GiB`` in bytes.

    Raises:
        SchemeError: it is not a size above 0.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    count = int(float(match[1]) * unit) if match and unit else 0
    if count < 1:
        raise SchemeError(f"expected a size such as 5GB, 500MB or 2GiB, got {text!r}")
    return count


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
