import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import deserialize, safe_open
from safetensors.numpy import save_file

from kbit.core.errors import FormatError, IntegrityError, ShapeError, StorageError
from kbit.store.container import open_container
from kbit.store.header import TensorSpec

from .conftest import filled, sealed_container

SPECS = [
    TensorSpec("packed", "U8", (64, 3)),
    TensorSpec("scale", "F16", (5,)),
    TensorSpec("scalar", "F32", ()),
    TensorSpec("norm", "BF16", (2, 2)),
]


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        f"{dtype}.{rank}": generator.integers(0, 100, (3,) * rank).astype(dtype)
        for dtype in ("u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8")
        for rank in (0, 1, 3)
    }
    save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "np"})
    with open_container(tmp_path / "m.safetensors") as container:
        assert container.metadata == {"format": "np"}
        assert container.hashes is None
        assert set(container.names()) == set(arrays)
        for name, array in arrays.items():
            found = container.array(name)
            assert found.dtype == array.dtype
            assert found.shape == array.shape
            assert found.tobytes() == array.tobytes()
            assert not found.flags.writeable


def test_the_reference_library_reads_what_is_written_here(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS, {"kbit": "{}", "format": "pt"})
    with safe_open(path, "np") as file:
        assert file.metadata()["format"] == "pt"
        for spec in (spec for spec in SPECS if spec.dtype != "BF16"):
            assert file.get_tensor(spec.name).tobytes() == filled(spec).tobytes()
    found = dict(deserialize(path.read_bytes()))
    assert {name: bytes(tensor["data"]) for name, tensor in found.items()} == {spec.name: filled(spec).tobytes() for spec in SPECS}


def test_rows_pieces_and_foreign_memory_agree_with_the_array(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path) as container:
        whole = container.array("packed")
        assert np.array_equal(np.concatenate([container.read_rows("packed", 0, 7), container.read_rows("packed", 7, 64)]), whole)
        assert container.read_rows("packed", 5, 5).shape == (0, 3)
        assert b"".join(piece.tobytes() for piece in container.chunks("packed", 50)) == whole.tobytes()
        out = np.zeros((64, 3), np.uint8)
        container.read_into("packed", out)
        assert np.array_equal(out, whole)
        for wrong in (np.zeros(5, np.uint8), np.zeros((64, 6), np.uint8)[:, ::2], whole):
            with pytest.raises(ShapeError):
                container.read_into("packed", wrong)
        for begin, end in ((0, 65), (-1, 3), (4, 3)):
            with pytest.raises(ShapeError):
                container.read_rows("packed", begin, end)
        with pytest.raises(ShapeError):
            container.read_rows("scalar", 0, 1)


def test_a_mapped_file_reads_the_same_even_after_it_is_closed(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path, mapped=True) as container:
        arrays = {name: container.array(name) for name in container.names()}
        rows = container.read_rows("packed", 7, 9)
        container.check("packed")
    with open_container(path) as container:
        for name, array in arrays.items():
            assert array.dtype == container.array(name).dtype
            assert array.tobytes() == container.array(name).tobytes()
            assert not array.flags.writeable
        assert np.array_equal(rows, container.read_rows("packed", 7, 9))
    assert arrays["packed"].base is not None  # the file's own page; what is not aligned in the file is read


def test_an_unknown_name_is_answered_with_a_close_one(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path) as container:
        assert "packed" in container
        with pytest.raises(FormatError, match="did you mean 'packed'"):
            container.array("packd")


def test_bf16_is_uint16_with_a_tag(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path) as container:
        assert container.array("norm").dtype == np.uint16
        assert container.entry("norm").dtype == "BF16"


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_file_that_changes_its_size_while_open_is_an_error(tmp_path: Path, size: int) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path) as container:
        os.truncate(path, size)
        with pytest.raises(IntegrityError, match=r"m\.safetensors: expected \d+ bytes as when it was opened"):
            container.array("packed")


def test_a_short_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    with open_container(path) as container:
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: 0)
        with pytest.raises(IntegrityError, match="the file shrank"):
            container.array("packed")


def test_reads_in_small_steps_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)
    real = os.preadv
    with open_container(path) as container:
        whole = container.array("packed").copy()
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:7]], offset))
        assert np.array_equal(container.array("packed"), whole)


def test_a_failing_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sealed_container(tmp_path / "m.safetensors", SPECS)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with open_container(path) as container:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(StorageError, match="read 192 bytes at byte"):
            container.array("packed")


def test_closed_and_missing_files(tmp_path: Path) -> None:
    container = open_container(sealed_container(tmp_path / "m.safetensors", SPECS))
    container.close()
    container.close()
    with pytest.raises(StorageError, match="closed"):
        container.array("packed")
    with pytest.raises(StorageError):
        open_container(tmp_path / "absent.safetensors")


def test_a_plain_file_has_no_hashes_to_check(put: Callable[..., Path], tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "m.safetensors")
    with open_container(tmp_path / "m.safetensors") as container, pytest.raises(FormatError, match="states no hashes"):
        container.check("a")


def test_real_models(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("models/*/model.safetensors")):
        with open_container(path) as container, safe_open(path, "np") as reference:
            assert set(container.names()) == set(reference.keys())
            for name in container.names():
                assert list(container.entry(name).shape) == list(reference.get_slice(name).get_shape())
