import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.study.conftest import lasting

from kbit.study.run import run_study
from kbit.study.store import StudyStore

#: a study that is killed as it keeps a row, before or after that is on the disk
DRIVER = """
import os, signal, sys, torch
torch.set_num_threads(1)
from kbit.study.run import run_study
from kbit.study.store import StudyStore
put, left = StudyStore.put, [int(sys.argv[3])]
def deadly(self, table, row):
    left[0] -= 1
    if left[0] == 0 and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, table, row)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
StudyStore.put = deadly
run_study(sys.argv[1], sys.argv[2], workers=1)
"""


def test_killed_and_resumed_equals_uninterrupted(lab: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    store = tmp_path / "killed.db"
    for rows, moment, kept in ((3, "before", 2), (4, "after", 6)):
        command = [sys.executable, "-c", DRIVER, str(lab / "plan.toml"), str(store), str(rows), moment]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        with StudyStore(store, reading=True) as left:
            assert len(left.rows()) == kept
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed = run_study(lab / "plan.toml", store, workers=1)
    whole = run_study(lab / "plan.toml", tmp_path / "whole.db", workers=1)
    torch.set_num_threads(threads)
    assert resumed.measured == len(whole.rows) - 6
    assert lasting(list(resumed.rows)) == lasting(list(whole.rows))
