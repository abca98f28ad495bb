"""`kbit decode`: from k bits back to an ordinary checkpoint."""

from typing import Annotated

import typer

from kbit.cli.options import Debug, Json, Overwrite
from kbit.cli.output import Output, verb
from kbit.core.sizes import bytes_text

__all__ = ["decode"]

_DTYPES = ("float32", "bfloat16", "float16")


@verb
def decode(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed model.")],
    output_folder: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="Type of the decoded weights: float32, bfloat16 or float16.")] = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a packed model as an ordinary checkpoint that any library reads. It keeps the encoded values: decoding loses nothing more."""
    if dtype not in _DTYPES:
        raise typer.BadParameter(f"--dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    from kbit.model.decode import decode as decode_model

    output = Output(json)
    decode_model(model, output_folder, dtype=dtype, overwrite=overwrite)
    from kbit.evaluate.size import stored_size

    size = stored_size(output_folder)
    facts = {"path": output_folder, "dtype": dtype, "file_bytes": size.file_bytes, "parameters": size.parameters}
    output.say(f"{size.parameters:,} parameters in {dtype}, {bytes_text(size.file_bytes or 0)}, written to {output_folder}")
    output.result(facts)
