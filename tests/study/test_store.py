import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kbit.core.errors import FormatError, StorageError
from kbit.study.store import StudyStore

ROW: dict[str, Any] = {
    "key": "k0",
    "status": "ok",
    "family": "f",
    "model": "m",
    "params": 10,
    "scheme": "int3:g64+gptq",
    "model_sha256": "aa",
    "speed_scheme": "int3:g64",
    "embedding": "16",
    "head": "16",
    "machine": "here",
    "perplexity": 3.5,
    "bits": 3,
    "context": 32,
    "seed": 0,
}
SPEED: dict[str, Any] = {
    "key": "s1",
    "status": "ok",
    "family": "f",
    "model": "m",
    "params": 10,
    "scheme": "int3:g64",
    "embedding": "16",
    "head": "16",
    "model_sha256": "aa",
    "machine": "there",
    "threads": 1,
    "decode_tokens_per_s": 100.0,
}
#: writes rows and says so after each, as fast as it can
WRITER = """
import sys
from kbit.study.store import StudyStore
from tests.study.test_store import ROW
with StudyStore(sys.argv[1]) as store:
    for number in range(10**6):
        store.put("quality", {**ROW, "key": f"k{number}", "params": number})
        print(number, flush=True)
"""


def test_rows_come_back_with_the_speed_of_their_bytes(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db") as store:
        store.put("quality", ROW)
        store.put("quality", {**ROW, "key": "k1", "scheme": "nf3:g64", "speed_scheme": "nf3:g64"})
        for key, threads, rate in (("s1", 1, 100.0), ("s2", 2, 180.0)):
            store.put("speed", {**SPEED, "key": key, "threads": threads, "decode_tokens_per_s": rate})
        store.put("speed", {**SPEED, "key": "s4", "embedding": "int8:g64"})  # other bytes
        store.put("speed", {**SPEED, "key": "s3", "threads": 4, "status": "failed", "reason": "no cores", "decode_tokens_per_s": None})
    with StudyStore(tmp_path / "s.db") as store:
        found = [(row["scheme"], row["threads"], row["decode_tokens_per_s"], row["perplexity"]) for row in store.rows()]
        assert found == [("int3:g64+gptq", 1, 100.0, 3.5), ("int3:g64+gptq", 2, 180.0, 3.5), ("nf3:g64", None, None, 3.5)]
        assert [row["machine"] for row in store.rows()] == ["there", "there", "here"]
        assert [row["threads"] for row in store.rows(["k0"], ["s2"])] == [2]
        assert [row["threads"] for row in store.rows(["k0"], [])] == [None]
        view = [dict(row) for row in store._database.execute("SELECT * FROM cells ORDER BY scheme, threads")]
        assert view == store.rows()
        assert store.status("quality") == {"k0": "ok", "k1": "ok"}
        assert [row["reason"] for row in store.failures(["s1", "s3"])] == ["no cores"]
        assert [row["key"] for row in store.rows(["k1"])] == ["k1"]


def test_a_row_takes_the_place_of_the_one_with_its_key(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db") as store:
        store.put("quality", {**ROW, "status": "failed", "reason": "no", "perplexity": None})
        store.put("quality", ROW)
        assert [(row["status"], row["reason"]) for row in store.rows()] == [("ok", None)]


def test_acknowledged_rows_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    last = -1
    for stop in (5, 40, 90):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= stop:
                break
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        last = max(last, int(([line, *rest.split()])[-1]))
        with StudyStore(path) as store:
            kept = {row["key"] for row in store.rows()}
        assert {f"k{number}" for number in range(last + 1)} <= kept
        assert len(kept) <= last + 2  # one may have been written and not yet acknowledged


def test_every_row_is_fsynced(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db") as store:
        assert store._database.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert store._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_refuses_columns_and_types_that_are_not_its_own(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db") as store:
        with pytest.raises(FormatError, match="no column 'colour'"):
            store.put("quality", {**ROW, "colour": "red"})
        with pytest.raises(FormatError, match="TEXT value in REAL column"):
            store.put("quality", {**ROW, "perplexity": "many"})
        with pytest.raises(FormatError, match="NOT NULL"):
            store.put("quality", {**ROW, "status": None})
        assert store.rows() == []


def test_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be told from one" * 50)
    with pytest.raises(FormatError, match=r"text\.db"), StudyStore(tmp_path / "text.db"):
        pass
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (a)")
    other.commit()
    other.close()
    with pytest.raises(FormatError, match="version 0"), StudyStore(tmp_path / "other.db"):
        pass
    with pytest.raises(StorageError), StudyStore(tmp_path / "nowhere" / "s.db"):
        pass


def test_a_study_of_version_1_goes_on_with_its_rows(tmp_path: Path) -> None:
    path, added = tmp_path / "s.db", ("mask_bytes", "outliers_bytes", "low_rank_bytes")
    with StudyStore(path) as store:
        store.put("quality", {**ROW, "perplexity": 7.5})
        store.put("speed", SPEED)
        new = store.rows()
    old = sqlite3.connect(path)
    old.execute("DROP VIEW cells")
    for name in added:  # what version 1 did not have
        old.execute(f"ALTER TABLE quality DROP COLUMN {name}")
    old.execute("CREATE VIEW cells AS SELECT * FROM quality")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with StudyStore(path, reading=True) as beside:  # looked at, and left as it is
        assert [row["perplexity"] for row in beside.rows()] == [7.5]
        assert beside._database.execute("PRAGMA user_version").fetchone()[0] == 1
    with StudyStore(path) as store:
        assert store.rows() == new
        store.put("quality", {**ROW, "key": "k1", "mask_bytes": 3.0})
        view = store._database.execute("SELECT key, mask_bytes, decode_tokens_per_s FROM cells ORDER BY key").fetchall()
    assert [tuple(row)[:2] for row in view] == [("k0", None), ("k1", 3.0)]
    assert view[0]["decode_tokens_per_s"] == new[0]["decode_tokens_per_s"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db"), pytest.raises(StorageError, match=str(os.getpid())), StudyStore(tmp_path / "s.db"):
        pass
    with StudyStore(tmp_path / "s.db"):
        pass


def test_may_be_read_while_it_is_written(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "s.db") as store:
        store.put("quality", ROW)
        with StudyStore(tmp_path / "s.db", reading=True) as beside:
            assert len(beside.rows()) == 1
            store.put("quality", {**ROW, "key": "k1"})
            assert len(beside.rows()) == 2
            with pytest.raises(StorageError, match="readonly"):
                beside.put("quality", ROW)
    with pytest.raises(StorageError), StudyStore(tmp_path / "none.db", reading=True):
        pass
