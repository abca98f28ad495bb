"""`kbit train`: a family of models from scratch, by a recipe."""

import os
from typing import Annotated

import typer

from kbit.cli.options import Debug, Json, Threads
from kbit.cli.output import Output, columns, verb

__all__ = ["train"]


@verb
def train(
    recipe: Annotated[str, typer.Option("--recipe", metavar="FILE", help="Recipe (TOML): architecture, sizes, text, tokens, schedule.")],
    output_folder: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Folder of the models, one a size.")],
    size: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Train this size of the recipe only; may be given again.")] = None,
    track: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Report to tensorboard or wandb as well; may be given again.")
    ] = None,
    threads: Threads = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again, and replace models of other recipes.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train models from scratch, each size of a recipe in turn. Killed, it goes on where it was, to the same bits.

    On several machines or GPUs start it with accelerate launch -m kbit train, or torchrun -m kbit train.
    """
    from kbit.cli.threads import use_threads
    from kbit.train.loop import train_recipe

    output = Output(json)
    use_threads(threads)
    found = train_recipe(recipe, output_folder, sizes=size or (), trackers=track or (), overwrite=overwrite, progress=True)
    if os.environ.get("RANK", "0") != "0":  # of several processes one speaks
        return
    rows = [
        [one.size, f"{one.params:,}", f"{one.tokens:,}", f"{one.train_loss:.3f}", f"{one.heldout_loss:.3f}", f"{one.minutes:.1f}"]
        for one in found
    ]
    output.say(columns(["size", "parameters", "tokens", "loss", "held-out loss", "minutes"], rows))
    output.result({"models": [one.to_json() for one in found], "folder": output_folder})
