"""`kbit`, the command: puts the verbs together.

Every verb's file is imported here, and none of them imports anything heavy before it runs, so ``kbit --help`` answers without
torch installed.
"""

import contextlib
import io
import os
import sys
from typing import Annotated

import typer

from kbit.cli import advise, bench, decode, demo, doctor, fit, quantize, run, show, study_report, verify
from kbit.cli import eval as evaluate

__all__ = ["app", "main"]

app = typer.Typer(
    name="kbit",
    help="Encode a transformer in k bits, run it in k bits, and measure what that costs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.command("demo", short_help="Try every k on the embedded model: table, plot, report.")(demo.demo)
app.command("quantize", short_help="Encode a model in k bits.")(quantize.quantize)
app.command("eval", short_help="Measure perplexity, KL divergence and size.")(evaluate.evaluate)
app.command("bench", short_help="Measure prefill and decode speed.")(bench.bench)
app.command("run", short_help="Continue a prompt.")(run.run)
app.command("show", short_help="Show what is inside a model, tensor by tensor.")(show.show)
app.command("decode", short_help="Go back to an ordinary checkpoint.")(decode.decode)
app.command("verify", short_help="Check every byte of a stored model.")(verify.verify)
app.command("report", short_help="Write a study's rows and laws as one page.")(study_report.report)
app.command("advise", short_help="Say which model at which k fits a budget.")(advise.advise)
app.command("fit", short_help="Fit laws to measured rows, and predict others.")(fit.fit)
app.command("doctor", short_help="Show what this machine and installation can do.")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        from kbit.core.installation import package_version

        print(f"kbit {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


#: transformers' own bars and notices; kbit shows its own
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def main() -> None:
    """Entry point of the ``kbit`` command."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding gets "?" for what it cannot show
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:  # outside a verb: while it was being imported, or between its end and ours
        sys.exit(130)
    finally:
        _flush()


def _flush() -> None:
    """Flush stdout here, where a reader that left is no reason for a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
