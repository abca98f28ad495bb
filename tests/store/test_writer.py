import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import DTypeError, FormatError, IntegrityError, LimitError, ShapeError, StorageError
from kbit.store.container import open_container
from kbit.store.header import DTYPES, TensorSpec
from kbit.store.writer import ContainerWriter, file_order

from .conftest import filled, sealed_container

SPECS = [TensorSpec("a", "U8", (6, 4)), TensorSpec("b", "F32", (3,)), TensorSpec("c", "BF16", (2, 2))]


def written(path: Path, order: list[int], splits: list[int]) -> bytes:
    with ContainerWriter(path, SPECS, {"kbit": "{}"}) as writer:
        for index in order:
            array = filled(SPECS[index])
            begin = 0
            while begin < len(array):
                rows = array[begin : begin + splits[index]]
                writer.write_rows(SPECS[index].name, begin, rows)
                begin += len(rows)
        writer.finish()
    return path.read_bytes()


def test_the_bytes_do_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    reference = sealed_container(tmp_path / "reference", SPECS, {"kbit": "{}"}).read_bytes()

    @settings(deadline=None, max_examples=30)
    @given(st.permutations([0, 1, 2]), st.lists(st.integers(1, 6), min_size=3, max_size=3))
    def check(order: list[int], splits: list[int]) -> None:
        assert written(tmp_path / "m", order, splits) == reference

    check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "reference"]


def test_tensors_are_aligned_by_file_order(tmp_path: Path) -> None:
    specs = file_order(
        [
            TensorSpec("odd", "U8", (3,)),
            TensorSpec("norm", "F32", (5,)),
            TensorSpec("packed", "U8", (640,)),
            TensorSpec("half", "F16", (3,)),
        ]
    )
    path = sealed_container(tmp_path / "m", specs)
    with open_container(path) as container:
        assert container.entry("packed").offset % 64 == 0
        for name in container.names():
            assert container.entry(name).offset % DTYPES[container.entry(name).dtype].itemsize == 0


def test_rows_come_in_order_and_may_start_over(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "m", SPECS, {}) as writer:
        array = filled(SPECS[0])
        writer.write_rows("a", 0, array[:2])
        for begin, rows in ((3, array[3:]), (1, array[1:2]), (2, array[:5]), (2, array[:, :3])):
            with pytest.raises(ShapeError, match="tensor 'a' of shape"):
                writer.write_rows("a", begin, rows)
        writer.write_rows("a", 0, array[:1])
        writer.write_rows("a", 1, array[1:])
        once = writer.hashes["a"]
        assert writer.write("a", array) == once


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "m", SPECS, {}) as writer:
        with pytest.raises(DTypeError, match="expected an array of float32, got float64"):
            writer.write("b", np.zeros(3))
        with pytest.raises(ShapeError, match=r"expected shape \[3\], got \[4\]"):
            writer.write("b", np.zeros(4, np.float32))
        with pytest.raises(FormatError, match="no slot"):
            writer.write("x", np.zeros(4, np.float32))
        with pytest.raises(FormatError, match="3 tensors were never written"):
            writer.finish()
    for specs, error in (
        ([TensorSpec("a", "F4", (1,))], DTypeError),
        ([TensorSpec("a", "U8", (0, 3))], ShapeError),
        ([TensorSpec("a", "U8", (1,))] * 2, FormatError),
    ):
        with pytest.raises(error):
            ContainerWriter(tmp_path / "n", specs, {})


def test_what_no_reader_takes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for specs, metadata, error in (
        ([TensorSpec("a\nb", "U8", (1,))], {}, FormatError),
        ([TensorSpec("n" * 1025, "U8", (1,))], {}, LimitError),
        ([TensorSpec("a", "U8", (1,) * 9)], {}, LimitError),
        (SPECS, {"kbit": "x" * (6 << 20) + "x"}, LimitError),
        (SPECS, dict.fromkeys(map(str, range(1000)), ""), LimitError),
    ):
        with pytest.raises(error):
            ContainerWriter(tmp_path / "m", specs, metadata)
    assert list(tmp_path.iterdir()) == []


def test_metadata_may_change_until_the_end_within_its_room(tmp_path: Path) -> None:
    for text, error in (("x" * 10, None), ("", None), ("x" * 200, LimitError)):
        with ContainerWriter(tmp_path / "m", SPECS[:1], {"note": "?" * 10}) as writer:
            writer.write("a", filled(SPECS[0]))
            if error is None:
                writer.finish({"note": text})
                with open_container(tmp_path / "m") as container:
                    assert container.metadata["note"] == text
                    container.check("a")
            else:
                with pytest.raises(error):
                    writer.finish({"note": text})


def test_a_partial_file_is_no_container(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "m", SPECS, {}) as writer:
        for spec in SPECS:
            writer.write(spec.name, filled(spec))
        writer.sync()
        with pytest.raises(FormatError):
            open_container(writer.partial)
    assert not (tmp_path / "m").exists()


def test_resume_trusts_only_what_hashes_right(tmp_path: Path) -> None:
    reference = sealed_container(tmp_path / "reference", SPECS, {"x": ""}).read_bytes()
    with ContainerWriter(tmp_path / "m", SPECS, {"x": ""}) as writer:
        hashes = {spec.name: writer.write(spec.name, filled(spec)) for spec in SPECS[:2]}
        offset = writer.entries["b"].offset
    with writer.partial.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    with ContainerWriter(tmp_path / "m", SPECS, {"x": ""}, resume=True) as writer:
        assert writer.adopt("a", hashes["a"])
        assert not writer.adopt("b", hashes["b"])
        assert not writer.adopt("c", hashes["a"])
        for spec in SPECS[1:]:
            writer.write(spec.name, filled(spec))
        writer.finish()
    assert (tmp_path / "m").read_bytes() == reference


def test_resume_of_a_partial_of_another_size_starts_over(tmp_path: Path) -> None:
    (tmp_path / "m.partial").write_bytes(b"x" * 17)
    reference = sealed_container(tmp_path / "reference", SPECS, {}).read_bytes()
    with ContainerWriter(tmp_path / "m", SPECS, {"note": "x"}, resume=True) as writer:
        for spec in SPECS:
            writer.write(spec.name, filled(spec))
        writer.finish()
    assert (tmp_path / "m").read_bytes() == reference


def test_a_lying_disk_is_found_before_publication(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"old")
    with ContainerWriter(tmp_path / "m", SPECS, {}) as writer:
        for spec in SPECS:
            writer.write(spec.name, filled(spec))
        os.pwrite(writer._fd, b"\xee", writer.entries["b"].offset)
        with pytest.raises(IntegrityError, match="tensor 'b'"):
            writer.finish()
    assert (tmp_path / "m").read_bytes() == b"old"


def caught(action: Callable[[], object]) -> StorageError | None:
    try:
        action()
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("call", ["pwrite", "fsync", "posix_fallocate", "ftruncate", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_fault_at_every_call_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")
    real = getattr(os, call)
    faults = 0
    for fail_at in range(1, 100):
        count = 0

        def faulty(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count == fail_at:  # noqa: B023 (called within this turn of the loop)
                raise OSError(number, os.strerror(number))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, faulty)
            found = caught(lambda: sealed_container(path, SPECS))
        if found is None:
            break
        faults += 1
        assert found.errno == number
        if call != "fsync":  # the last one is of the folder, after the rename
            assert path.read_bytes() == b"old"
        else:
            assert path.read_bytes() == b"old" or open_container(path).metadata["note"] == "x"
    assert faults >= 1
    with open_container(path) as container:
        for name in container.names():
            container.check(name)


def test_after_a_failed_fsync_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with ContainerWriter(tmp_path / "m", SPECS, {}) as writer:
        writer.write("b", filled(SPECS[1]))
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            writer.sync()
        assert not writer.partial.exists()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = sealed_container(tmp_path / "reference", SPECS).read_bytes()
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:5], offset))
    assert sealed_container(tmp_path / "m", SPECS).read_bytes() == reference


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = ContainerWriter(tmp_path / "m", SPECS, {})
    writer.close()
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.write("b", filled(SPECS[1]))
