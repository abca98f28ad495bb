import os
import signal
from pathlib import Path
from typing import Any

from tests.study.conftest import lasting

from kbit.study.cell import QualityCell
from kbit.study.expand import expand
from kbit.study.local import run_local
from kbit.study.plan import StudyPlan
from kbit.study.run import run_study


def deadly(cell: QualityCell, cache_folder: str) -> dict[str, Any]:
    """Stands for `measure`: one scheme kills its process, as the kernel does when memory runs out."""
    if cell.scheme == "nf3:g32":
        os.kill(os.getpid(), signal.SIGKILL)
    return {**cell.columns, "status": "ok"}


def test_a_cell_that_kills_its_process_is_a_failed_row_and_no_other(lab: Path) -> None:
    cells = [cell for cell in expand(StudyPlan.read(lab / "plan.toml"), "here").quality if cell.model == "a"]
    rows: dict[str, dict[str, Any]] = {}

    def done(cell: QualityCell, row: dict[str, Any]) -> None:
        assert cell.key not in rows
        rows[cell.key] = row

    run_local(cells, done, "", 2, measured=deadly)
    assert {row["scheme"]: row["status"] for row in rows.values()} == {
        "16": "ok",
        "int3:g32": "ok",
        "int3:g32+imp+gptq": "ok",
        "nf3:g32": "failed",
        "nf3:g32+imp+gptq": "ok",
    }
    assert "died, twice" in next(row["reason"] for row in rows.values() if row["status"] == "failed")


def test_a_pool_finds_what_one_process_finds(lab: Path, tmp_path: Path) -> None:
    pool = run_study(lab / "plan.toml", tmp_path / "pool.db", workers=2)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = run_study(lab / "plan.toml", tmp_path / "alone.db", workers=1)
    torch.set_num_threads(threads)
    assert lasting(list(pool.rows)) == lasting(list(alone.rows))
