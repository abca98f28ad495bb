import errno
import os
from pathlib import Path

import pytest

from kbit.core.errors import IntegrityError, ResumeMismatch, StorageError
from kbit.store.journal import Journal

BINDING = {"model": "abc", "plan": ["nf4", 3], "kbit_version": "1"}


def journal_with(path: Path, count: int) -> bytes:
    with Journal(path, BINDING) as journal:
        for index in range(count):
            journal.append({"unit": f"layer.{index}", "hash": "0" * 8})
    return path.read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    journal_with(tmp_path / "j", 3)
    with Journal(tmp_path / "j", dict(reversed(BINDING.items()))) as journal:
        assert [record["unit"] for record in journal.records] == ["layer.0", "layer.1", "layer.2"]
        journal.append({"unit": "more"})
    with Journal(tmp_path / "j", BINDING) as journal:
        assert journal.records[-1] == {"unit": "more"}


def test_a_journal_torn_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    data = journal_with(tmp_path / "j", 2)
    for size in range(len(data)):
        (tmp_path / "j").write_bytes(data[:size])
        with Journal(tmp_path / "j", BINDING) as journal:
            assert len(journal.records) == max(0, data[:size].count(b"\n") - 1)
            for index in range(len(journal.records), 2):
                journal.append({"unit": f"layer.{index}", "hash": "0" * 8})
        assert (tmp_path / "j").read_bytes() == data


def test_every_bit_flip_is_dropped_or_refused_and_never_believed(tmp_path: Path) -> None:
    data = journal_with(tmp_path / "j", 2)
    last = data.rindex(b"\n", 0, -1) + 1
    for at in range(len(data)):
        (tmp_path / "j").write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if at == last - 1:  # the newline: the last two lines become one torn line
            with Journal(tmp_path / "j", BINDING) as journal:
                assert journal.records == []
        elif at < last:
            with pytest.raises(IntegrityError, match=r"line \d at byte"):
                Journal(tmp_path / "j", BINDING)
        else:
            with Journal(tmp_path / "j", BINDING) as journal:
                assert [record["unit"] for record in journal.records] == ["layer.0"]


def test_lines_cannot_change_places(tmp_path: Path) -> None:
    first, second, third = journal_with(tmp_path / "j", 2).splitlines(keepends=True)
    (tmp_path / "j").write_bytes(first + third + second)
    with pytest.raises(IntegrityError, match="line 2"):
        Journal(tmp_path / "j", BINDING)


@pytest.mark.parametrize("key", sorted(BINDING))
def test_another_binding_is_refused_with_the_field_that_differs(tmp_path: Path, key: str) -> None:
    data = journal_with(tmp_path / "j", 1)
    with pytest.raises(ResumeMismatch, match=f"{key} was .*, is 'other'"):
        Journal(tmp_path / "j", {**BINDING, key: "other"})
    assert (tmp_path / "j").read_bytes() == data


def test_a_fault_while_appending_leaves_a_readable_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("pwrite", "fsync"):
        path = tmp_path / call
        with Journal(path, BINDING) as journal:
            journal.append({"unit": "a"})
            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(StorageError):
                    journal.append({"unit": "b"})
            with pytest.raises(StorageError):
                journal.append({"unit": "c"})
        with Journal(path, BINDING) as journal:
            assert [record["unit"] for record in journal.records][:1] == ["a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = journal_with(tmp_path / "reference", 2)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    assert journal_with(tmp_path / "j", 2) == reference
