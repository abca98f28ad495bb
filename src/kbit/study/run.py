"""`run_study`: the cells of a plan that have no row yet, measured and kept one by one."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbit.core.progress import Progress
from kbit.study.cell import QualityCell, SpeedCell
from kbit.study.cost import cell_gmacs, measured_rate, probe_rate
from kbit.study.expand import expand
from kbit.study.export import check_export, export_rows
from kbit.study.plan import StudyPlan
from kbit.study.store import StudyStore

__all__ = ["Forecast", "StudyResult", "forecast", "run_study"]

#: bytes of a text a token, for a cost before anything is tokenized
_BYTES_A_TOKEN = 3.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a study would do.

    Attributes:
        cells: cells, missing ones among them.
        missing: those without a row.
        gmacs: 10⁹ multiply-adds of the missing ones.
        seconds: estimate for them on `workers` cores.
        models: (model, cells, missing, gmacs) each.
    """

    cells: int
    missing: int
    gmacs: float
    seconds: float
    workers: int
    models: tuple[tuple[str, int, int, float], ...]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What came of a study.

    Attributes:
        rows: joined rows of the plan's cells.
        measured: cells measured by this call.
        failed: rows of the plan without figures, their reasons inside.
        seconds: time of this call.
    """

    rows: tuple[dict[str, Any], ...]
    measured: int
    failed: tuple[dict[str, Any], ...]
    seconds: float


def forecast(
    plan: StudyPlan, output: str | Path, *, workers: int = 0, retry_failed: bool = False, exports: Sequence[str | Path] = ()
) -> Forecast:
    """Cells and cost of a study, nothing measured but the speed of a small product of matrices; it may be running meanwhile.

    Args:
        plan: it.
        output: its SQLite file, which need not be there.
        workers: as `run_study`.
        retry_failed: as `run_study`.
        exports: files that get the rows that are there.

    Raises:
        As `run_study`, for what is wrong with plan, models, texts and store.
    """
    cells = expand(plan, _machine())
    everything: Sequence[QualityCell | SpeedCell] = (*cells.quality, *cells.speed)
    missing = {cell.key for cell in everything}
    rows: list[dict[str, Any]] = []
    if Path(output).exists():
        with StudyStore(output, reading=True) as store:
            missing -= _settled(store, retry_failed)
            rows = store.rows((cell.key for cell in cells.quality), (cell.key for cell in cells.speed))
    for path in exports:
        export_rows(rows, path)
    tokens = _text_tokens(plan)
    by_key = {cell.key: cell for cell in cells.quality}
    workers = workers or os.cpu_count() or 1
    models: dict[str, list[float]] = {}
    for cell in everything:
        entry = models.setdefault(cell.model, [0, 0, 0.0])
        entry[0] += 1
        if cell.key in missing:
            entry[1] += 1
            entry[2] += cell_gmacs(cell, tokens)
    total = sum(entry[2] for entry in models.values())
    rate = measured_rate((cell_gmacs(by_key[row["key"]], tokens), row["seconds"]) for row in rows if row["key"] in by_key) or probe_rate()
    return Forecast(
        cells=len(everything),
        missing=len(missing),
        gmacs=total,
        seconds=total / rate / workers,
        workers=workers,
        models=tuple((name, int(entry[0]), int(entry[1]), entry[2]) for name, entry in models.items()),
    )


def run_study(
    plan: StudyPlan | str | Path,
    output: str | Path,
    *,
    cluster: str | None = None,
    workers: int = 0,
    retry_failed: bool = False,
    exports: Sequence[str | Path] = (),
    progress: bool | None = False,
) -> StudyResult:
    """Measure what is missing of a study.

    Quality cells run first, in parallel; speed cells then run alone in this process, so that nothing disturbs them.

    Args:
        plan: it, or its file.
        output: the study's SQLite file; rows that are there stay. Logits of the originals are kept beside it, in ``<name>.cache``.
        cluster: address of a Ray cluster for the quality cells; ``local`` starts one here.
        workers: processes for them on this machine, 1 for this one alone; 0 takes one a core.
        retry_failed: measure failed cells again.
        exports: .csv and .parquet files to write at the end.
        progress: a line on stderr, as `Progress`.

    Raises:
        SchemeError, FormatError, StorageError: a plan, text or store that cannot be read; names file and field.
        ModelError: a model of the plan that cannot be read.
        MissingExtraError: an optional package is not installed.
    """
    from kbit.study.cluster import run_cluster
    from kbit.study.local import run_local
    from kbit.study.measure import measure

    started = time.monotonic()
    plan = plan if isinstance(plan, StudyPlan) else StudyPlan.read(plan)
    for path in exports:
        check_export(path)
    cells = expand(plan, _machine())
    cache = str(Path(output).resolve().with_suffix(".cache"))
    workers = workers or os.cpu_count() or 1
    with StudyStore(output) as store:
        settled = _settled(store, retry_failed)
        quality = [cell for cell in cells.quality if cell.key not in settled]
        speed = [cell for cell in cells.speed if cell.key not in settled]
        with _Count(store, plan, [*quality, *speed], progress) as count:
            if quality and cluster is not None:
                run_cluster(quality, count.done, cache, cluster)
            elif quality:
                run_local(quality, count.done, cache, min(workers, len(quality)))
            for cell in speed:
                count.done(cell, measure(cell, cache))
        rows = store.rows((cell.key for cell in cells.quality), (cell.key for cell in cells.speed))
        failures = [row for row in rows if row["status"] != "ok"] + store.failures(cell.key for cell in cells.speed)
    for path in exports:
        export_rows(rows, path)
    return StudyResult(tuple(rows), len(quality) + len(speed), tuple(failures), time.monotonic() - started)


class _Count:
    """Keeps rows as they come, and tells how far it is: by multiply-adds, since large models come last."""

    def __init__(self, store: StudyStore, plan: StudyPlan, cells: Sequence[QualityCell | SpeedCell], progress: bool | None) -> None:
        self._store, self._total, self._tokens = store, len(cells), _text_tokens(plan)
        self._cells = self._failed = 0
        self._line = Progress(sum(cell_gmacs(cell, self._tokens) for cell in cells), "GMAC", "study", enabled=progress if cells else False)

    def __enter__(self) -> "_Count":
        self._line.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._line.__exit__(*error)

    def done(self, cell: QualityCell | SpeedCell, row: dict[str, Any]) -> None:
        """Keep a row; it is on the disk when this returns."""
        self._store.put(cell.kind, row)
        self._cells += 1
        self._failed += row["status"] != "ok"
        failed = f", {self._failed} failed" if self._failed else ""
        self._line.advance(cell_gmacs(cell, self._tokens), f"{self._cells}/{self._total} cells{failed}  {cell.model} {cell.scheme}")


def _settled(store: StudyStore, retry_failed: bool) -> set[str]:
    status = store.status("quality") | store.status("speed")
    return {key for key, value in status.items() if value == "ok" or not retry_failed}


def _text_tokens(plan: StudyPlan) -> int:
    files = [file for path in plan.text.paths for file in (path.glob("*.txt") if path.is_dir() else [path])]
    return int(sum(file.stat().st_size for file in files) / _BYTES_A_TOKEN)


def _machine() -> str:
    from kbit.study.measure import machine_name

    return machine_name()
