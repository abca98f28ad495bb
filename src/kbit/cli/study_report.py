"""`kbit report`: a study's rows and laws on one page."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kbit.cli.options import Debug, Json, Overwrite
from kbit.cli.output import Output, verb
from kbit.core.sizes import count_text

__all__ = ["report"]


@verb
def report(
    rows: Annotated[str, typer.Argument(metavar="STUDY", help="A study, or any table of measured rows (.csv, .parquet).")],
    output_file: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = "report.html",
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Heading of the page.")] = "",
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, max=10_000, help="Draws behind the intervals of coefficients; 0 for none.")
    ] = 40,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML page: curves, laws with bands, optimum k, the tables behind them, and how to read them."""
    from kbit.core.errors import NumericsError, StorageError
    from kbit.core.files import atomic_write
    from kbit.core.installation import package_version, version_of
    from kbit.core.progress import Progress
    from kbit.study.fitting import Fitting, fit_laws
    from kbit.study.report import StudyReport, render_study
    from kbit.study.tables import read_rows

    output, target = Output(json), Path(output_file)
    if target.exists() and not overwrite:
        raise StorageError(17, "expected a new file (or --overwrite)", str(target))
    measured = read_rows(rows)
    fitting: Fitting | None = None
    no_laws = ""
    try:
        with Progress(None, "steps", "fitting") as progress:
            fitting = fit_laws(measured, draws=bootstrap, progress=lambda *_: progress.advance(1))
    except NumericsError as error:
        no_laws = str(error)
    command = shlex.join(["kbit", *sys.argv[1:]]) if Path(sys.argv[0]).name in ("kbit", "__main__.py") else f"kbit report {rows}"
    facts = {"kbit": package_version(), "scipy": version_of("scipy") or "", "rows": Path(rows).name}
    machines = sorted({str(row.extra["machine"]) for row in measured if "machine" in row.extra})
    page = StudyReport(
        title=title or Path(rows).stem,
        rows=measured,
        fitting=fitting,
        no_laws=no_laws,
        commands=(f"kbit fit {rows} -o law.json", command),
        facts=facts | ({"machines": ", ".join(machines)} if machines else {}),
    )
    with atomic_write(target) as file:
        file.write(render_study(page).encode("utf-8"))
    output.say(f"wrote {target}: {count_text(len(measured), 'row')}{'' if fitting else f', no laws: {no_laws}'}")
    laws = [] if fitting is None else [{"form": one.law.form, "heldout_error": one.heldout_error} for one in fitting.laws]
    output.result({"report": str(target), "rows": len(measured), "laws": laws, "no_laws": no_laws or None})
