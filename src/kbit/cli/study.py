"""`kbit study`: a plan's cells measured, one typed row each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, columns, verb

if TYPE_CHECKING:
    from kbit.study.run import Forecast, StudyResult

__all__ = ["study"]

_SHOWN = 10


@verb
def study(
    plan: Annotated[str, typer.Argument(metavar="PLAN.toml", help="Models, schemes, text, and what to measure.")],
    output_file: Annotated[
        str | None, typer.Option("-o", "--output", metavar="STUDY.db", help="SQLite file of the rows; by default named as the plan.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells and cost, export the rows that are there; measure nothing.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster for the quality cells: auto, host:port, or local to start one here.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Processes on this machine; 0 takes one a core.")] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure cells again that failed.")] = False,
    export: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Write the rows as .csv or .parquet too; may be given again.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure size, loss, divergence and speed of every model under every scheme of a plan. Killed, it goes on with what is missing.

    Rows are keyed by a digest of all that they depend on: what is measured is not measured again, and a changed input is a new row.
    """
    from kbit.study.plan import StudyPlan
    from kbit.study.run import forecast, run_study

    output = Output(json)
    read = StudyPlan.read(plan)
    target = output_file or str(Path(plan).with_suffix(".db"))
    if dry_run:
        _print_forecast(output, forecast(read, target, workers=workers, retry_failed=retry_failed, exports=export or ()))
        return
    found = run_study(read, target, cluster=cluster, workers=workers, retry_failed=retry_failed, exports=export or (), progress=True)
    _print(output, found, target)
    output.result({"rows": found.rows, "measured": found.measured, "failed": len(found.failed), "seconds": found.seconds, "store": target})


def _print_forecast(output: Output, found: "Forecast") -> None:
    rows = [[name, f"{cells}", f"{missing}", f"{gmacs / 1e3:.2f}"] for name, cells, missing, gmacs in found.models]
    output.say(columns(["model", "cells", "to measure", "10¹² multiply-adds"], rows))
    output.say()
    minutes = found.seconds / 60
    output.say(f"{found.missing} of {found.cells} cells to measure: about {minutes:.3g} minutes on {found.workers} idle cores")
    names = ("model", "cells", "missing", "gmacs")
    output.result(
        {
            "cells": found.cells,
            "missing": found.missing,
            "gmacs": found.gmacs,
            "seconds": found.seconds,
            "workers": found.workers,
            "models": [dict(zip(names, entry, strict=True)) for entry in found.models],
        }
    )


def _print(output: Output, found: "StudyResult", target: str) -> None:
    good = [row for row in found.rows if row["status"] == "ok"]
    best = sorted(good, key=lambda row: (row["params"], row["bpw"]))
    shown = best if len(best) <= 2 * _SHOWN else [*best[:_SHOWN], *best[-_SHOWN:]]
    rows = [
        [row["model"], row["scheme"], f"{row['bpw']:.3f}", f"{row['perplexity']:.3f}", f"{row['kl_mean']:.5f}", _speed(row)]
        for row in shown
    ]
    if rows:
        output.say(columns(["model", "scheme", "bpw", "perplexity", "KL", "tokens/s"], rows, left=2))
        output.say()
    for row in found.failed[:_SHOWN]:
        output.say(f"failed: {row['model']} {row['scheme']}: {row['reason']}")
    output.say(f"{len(found.rows)} rows in {target}, {found.measured} cells measured in {found.seconds:.1f} s, {len(found.failed)} failed")


def _speed(row: dict[str, float]) -> str:
    rate = row["decode_tokens_per_s"]
    return "" if rate is None else f"{rate:.0f}"
