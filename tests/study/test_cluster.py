import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.study.conftest import lasting

from kbit.core.errors import MissingExtraError
from kbit.study.run import run_study


def test_says_what_to_install(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"kbit\[cluster\]"):
        run_study(lab / "plan.toml", tmp_path / "s.db", cluster="local")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_same_rows_with_a_worker_killed_half_way(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "240")
    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        while not over.is_set() and not killed:
            if len(list((tmp_path / "ray.cache").glob("reference-*.npy"))) >= 1:
                workers = [
                    pid for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()) if _is_measuring(pid)
                ]
                if workers:
                    os.kill(workers[0], signal.SIGKILL)
                    killed.append(workers[0])
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        found = run_study(lab / "plan.toml", tmp_path / "ray.db", cluster="local")
    finally:
        over.set()
        killer.join()
    assert killed
    local = run_study(lab / "plan.toml", tmp_path / "local.db", workers=2)
    assert lasting(list(found.rows)) == lasting(list(local.rows))


def _is_measuring(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return command.startswith(b"ray::_measure") and Path(f"/proc/{pid}").stat().st_uid == os.getuid()
