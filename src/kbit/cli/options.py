"""Options that several verbs share, so that they are named and explained alike."""

from typing import Annotated

import typer

__all__ = ["Bits", "CalibrationArithmetic", "Context", "Debug", "Json", "Limit", "Mode", "Overwrite", "Stride", "Texts", "Threads"]

Bits = Annotated[int | None, typer.Option("--k", metavar="K", help="Of a model of nested codes or cascades, run the first K bits.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout; progress goes to stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[
    int, typer.Option("--threads", metavar="N", min=0, help="Threads of the kernels; 0 takes every core this process may use.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the destination.")]
CalibrationArithmetic = Annotated[
    str,
    typer.Option(
        "--calibration-arithmetic",
        metavar="auto|float32|bfloat16",
        help="What it is run in; auto is bfloat16 for large layers on a processor with matrix tiles for it.",
    ),
]
Texts = Annotated[list[str] | None, typer.Option("--text", metavar="FILE", help="Evaluation text, UTF-8; may be given again.")]
Context = Annotated[int, typer.Option("--context", metavar="N", min=0, help="Tokens a window; 0 takes what the model allows, up to 2048.")]
Stride = Annotated[int, typer.Option("--stride", metavar="N", min=0, help="Tokens between windows; 0 means no overlap.")]
Limit = Annotated[int, typer.Option("--limit-tokens", metavar="N", min=0, help="Read at most so many tokens of the text; 0 reads all.")]
Mode = Annotated[str, typer.Option("--mode", metavar="MODE", help="Arithmetic: fast (int8 activations) or exact (fp32, fixed order).")]
