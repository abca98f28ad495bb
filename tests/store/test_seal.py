"""Every single-bit flip and every truncation of a 64 KiB file is found."""

import hashlib
import os
from pathlib import Path

import pytest

from kbit.core.errors import FormatError, IntegrityError, KbitError
from kbit.store.container import Container, open_container
from kbit.store.header import Limits, TensorSpec, build_header
from kbit.store.seal import DIGEST_KEY, HASHES_KEY, SEAL_PREFIX, ZERO_DIGEST, seal, tensor_hasher

from .conftest import filled, sealed_container

SPECS = [TensorSpec(f"layer.{index}.weight", "U8", (8, 1000)) for index in range(8)]


@pytest.fixture
def file_64k(tmp_path: Path) -> Path:
    path = sealed_container(tmp_path / "m.safetensors", SPECS, {"kbit_model": "0" * 64, "kbit": '{"a": 1}'})
    assert 64_000 <= path.stat().st_size <= 66_000
    return path


def opens(path: Path) -> bool:
    """False only for an error of ours: any other exception fails the test."""
    try:
        open_container(path).close()
    except KbitError:
        return False
    return True


def test_every_bit_of_the_header_is_held_by_the_digest(file_64k: Path) -> None:
    with open_container(file_64k) as container:
        header_bytes = container.header_bytes
    with file_64k.open("r+b", buffering=0) as file:
        head = file.read(header_bytes)
        assert opens(file_64k)
        missed = []
        for at, byte in enumerate(head):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
                if opens(file_64k):
                    missed.append((at, bit))
            os.pwrite(file.fileno(), bytes([byte]), at)
        assert opens(file_64k)
    assert missed == []


def test_every_bit_of_every_tensor_is_held_by_its_hash(tmp_path: Path) -> None:
    """All bits through the hash that `Container.check` compares, and one bit of each byte through the file."""
    path = sealed_container(tmp_path / "m.safetensors", [TensorSpec(f"layer.{index}.weight", "U8", (1024,)) for index in range(60)])
    with open_container(path) as container, path.open("r+b", buffering=0) as file:
        assert container.hashes is not None
        for name in container.names():
            entry, sha256 = container.entry(name), container.hashes[name]
            data = bytearray(container.array(name).tobytes())
            bound = tensor_hasher(name, entry.dtype, entry.shape)
            missed = 0
            for at, byte in enumerate(bytes(data)):
                for bit in range(8):
                    data[at] = byte ^ 1 << bit
                    hasher = bound.copy()
                    hasher.update(data)
                    missed += hasher.hexdigest() == sha256
                os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), entry.offset + at)
                missed += container.hash(name) == sha256
                os.pwrite(file.fileno(), bytes([byte]), entry.offset + at)
                data[at] = byte
            assert missed == 0
            container.check(name)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = sealed_container(tmp_path / "m.safetensors", [TensorSpec("w", "U8", (65_000,))])
    whole = path.stat().st_size
    assert opens(path)
    with path.open("r+b", buffering=0) as file:
        missed = []
        for size in range(whole - 1, -1, -1):
            file.truncate(size)
            try:
                Container(path, file.fileno(), size, Limits())
            except KbitError:
                continue
            missed.append(size)
    assert missed == []
    assert not opens(path)


def test_a_damaged_tensor_is_named_with_its_place(file_64k: Path) -> None:
    with open_container(file_64k) as container:
        offset = container.entry("layer.3.weight").offset
    with file_64k.open("r+b") as file:
        file.seek(offset + 17)
        file.write(b"\xff")
    with open_container(file_64k) as container:
        container.check("layer.2.weight")
        with pytest.raises(IntegrityError, match=rf"m\.safetensors: tensor 'layer\.3\.weight' at byte {offset}"):
            container.check("layer.3.weight")


def test_equal_tensors_under_two_names_cannot_be_swapped() -> None:
    hashes = {tensor_hasher(*bound).hexdigest() for bound in (("a", "U8", (4,)), ("b", "U8", (4,)), ("a", "I8", (4,)), ("a", "U8", (2, 2)))}
    assert len(hashes) == 4


def test_the_digest_is_what_the_format_says(file_64k: Path) -> None:
    """By the words of FORMAT.md: SHA-256 of length and header with the 64 digits as zeros; name, dtype, shape, newline, bytes."""
    data = file_64k.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    at = len('{"__metadata__":{"kbit_digest":"') + 8
    assert data[at : at + 64].decode() == hashlib.sha256(data[:at] + b"0" * 64 + data[at + 64 : end]).hexdigest()
    with open_container(file_64k) as container:
        expected = hashlib.sha256(b'["layer.0.weight","U8",[8,1000]]\n' + filled(SPECS[0]).tobytes()).hexdigest()
        assert container.metadata[HASHES_KEY][:64] == expected


def test_kbit_metadata_without_a_seal_is_refused(tmp_path: Path) -> None:
    for metadata in ({"kbit": "{}"}, {"kbit_hashes": "0" * 64}, {"a": "b", DIGEST_KEY: ZERO_DIGEST.decode()}):
        path = tmp_path / "m.safetensors"
        path.write_bytes(build_header([TensorSpec("a", "U8", (1,))], metadata) + b"x")
        with pytest.raises(IntegrityError, match="not the seal"):
            open_container(path)


def test_a_seal_over_the_wrong_number_of_hashes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for hashes in ("0" * 63, "0" * 128, "z" * 64, ""):
        head = build_header([TensorSpec("a", "U8", (1,))], {DIGEST_KEY: ZERO_DIGEST.decode(), HASHES_KEY: hashes})
        assert head[8:].startswith(SEAL_PREFIX)
        path.write_bytes(seal(head) + b"x")
        with pytest.raises(FormatError, match="64 hex digits"):
            open_container(path)
