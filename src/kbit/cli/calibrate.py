"""`kbit calibrate`: what a model's inputs are like, kept in a file for `kbit quantize --importance`."""

from typing import Annotated

import typer

from kbit.cli.options import CalibrationArithmetic, Debug, Json, Overwrite
from kbit.cli.output import Output, verb
from kbit.cli.plan_options import calibration_of

__all__ = ["calibrate"]


@verb
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the model: config.json and safetensors.")],
    output_file: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="File to write, safetensors.")],
    calibration: Annotated[
        list[str],
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Text, .jsonl with a 'text' or 'messages' a line, token ids (.npy, .bin), or 'self'; may be given again.",
        ),
    ],
    calibration_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="About so many tokens of it are used.")] = 131_072,
    calibration_arithmetic: CalibrationArithmetic = "auto",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Which stretches of the calibration text are used.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a text through a model and keep how much each input of each weight matters.

    `kbit quantize --scheme nf3:g64+imp --importance FILE` then needs neither the text nor the whole model in memory.
    """
    from kbit.model.importance import calibrate_folder

    output = Output(json)
    text = calibration_of(calibration, calibration_tokens, seed)
    options = {"arithmetic": calibration_arithmetic, "overwrite": overwrite, "progress": True}
    found = calibrate_folder(model, output_file, text, **options)  # type: ignore[arg-type]  # a wrong choice is refused there
    stacks = {name: rows.tolist() for name, rows in found.rows.items() if len(rows) > 1}
    unseen = [name for name, rows in found.rows.items() if not rows.all()]
    output.say(f"calibration       {found.tokens:,} tokens, {len(found.means)} weights")
    for name, rows in stacks.items():
        output.say(f"experts           {name}: {min(rows):,} to {max(rows):,} input rows each")
    for name in unseen:
        output.say(f"note              the text never reached all of {name}")
    output.say(f"written to        {output_file}")
    facts = {"path": output_file, "tokens": found.tokens, "seed": found.seed, "digest": found.digest}
    output.result(facts | {"weights": len(found.means), "experts": stacks, "unseen": unseen})
