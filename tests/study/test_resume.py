import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from tests.study.conftest import lasting

from kbit.study.run import run_study

DRIVER = """
import sys
import torch
torch.set_num_threads(1)
from kbit.study.run import run_study
run_study(sys.argv[1], sys.argv[2], workers=1)
"""


def count(path: Path) -> int:
    if not path.exists():
        return 0
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(*) FROM quality").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0
    finally:
        database.close()


def test_killed_and_resumed_equals_uninterrupted(lab: Path, tmp_path: Path) -> None:
    import torch

    store = tmp_path / "killed.db"
    for kills in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", DRIVER, str(lab / "plan.toml"), str(store)])
        before, deadline = count(store), time.monotonic() + 900
        while count(store) < before + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"it was over before kill {kills}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed = run_study(lab / "plan.toml", store, workers=1)
    whole = run_study(lab / "plan.toml", tmp_path / "whole.db", workers=1)
    torch.set_num_threads(threads)
    assert 0 < resumed.measured <= len(whole.rows) - 4
    assert lasting(list(resumed.rows)) == lasting(list(whole.rows))
