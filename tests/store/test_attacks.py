"""Hostile containers and folders, one case a line of the torture list (part A), each refused with a typed error that names its place.

Each case runs under a memory cap of 64 MiB. What exhausts every byte or bit of a file is in `test_seal.py`; files that change while they
are open are in `test_container.py`; lines that need a model's folder around them are here too.
"""

import io
import json
import os
import pickle
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from kbit.core.errors import FormatError, IntegrityError, KbitError, LimitError, NumericsError, SchemeError, StorageError
from kbit.core.scheme import Scheme
from kbit.store.container import open_container
from kbit.store.folder import open_model
from kbit.store.header import Limits, TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.parts import part_specs
from kbit.store.shards import INDEX_NAME
from kbit.store.verify import verify
from kbit.store.writer import ContainerWriter

from .conftest import filled, raw_container, small_manifest, write_small_model

MEMORY = 64 << 20
HUGE = 2**63


def tensor(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(**changes: Any) -> bytes:
    """One tensor 'a' of four bytes, with something wrong with it."""
    return raw_container({"a": tensor(**changes)}, b"data")


def text(value: str) -> bytes:
    """One tensor 'a' whose header holds `value` as it is."""
    return raw_container('{"a":' + value + "}", b"data")


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([1]))
    return file.getvalue()


def many_entries(count: int, dtype: str = "U8", name: str = "t") -> str:
    return ",".join(f'"{name}{index}":{{"dtype":"{dtype}","shape":[1],"data_offsets":[{index},{index + 1}]}}' for index in range(count))


def many_tensors(count: int) -> bytes:
    return raw_container("{" + many_entries(count) + "}", bytes(count))


def metadata_of(*values: str) -> bytes:
    """A header of metadata values as they are, escapes and all."""
    return raw_container('{"__metadata__":{' + ",".join(f'"{index}":"{value}"' for index, value in enumerate(values)) + "}}")


GOOD = one()
TWO = {"a": tensor(), "b": tensor(offsets=(4, 8))}
DIM = f"a list of integers in 0…{HUGE - 1}"

#: (line of the list, what, bytes of the file, error, words of its message)
CASES: list[tuple[int, str, bytes | Callable[[], bytes], type[KbitError], str]] = [
    (1, "empty file", b"", FormatError, "expected at least 10 bytes"),
    (2, "one byte", b"x", FormatError, "expected at least 10 bytes"),
    (3, "wrong magic", raw_container(b"[]"), FormatError, "header at byte 8: expected '{'"),
    (3, "space before the header", raw_container(b" {}"), FormatError, "header at byte 8: expected '{'"),
    (3, "gguf", b"GGUF" + bytes(60), FormatError, "it looks like a GGUF file"),
    (5, "truncated in the header", GOOD[:30], FormatError, "header length at byte 0"),
    (5, "truncated in the tensors", GOOD[:-1], FormatError, "expected 4 bytes of tensors"),
    (7, "trailing bytes", GOOD + b"x", FormatError, "expected 4 bytes of tensors after byte"),
    (7, "trailing bytes in the header", raw_container(b'{}"x"'), FormatError, "only spaces after"),
    (7, "trailing NUL in the header", raw_container(b"{}\0\0"), FormatError, "only spaces after"),
    (8, "zip", zip_bytes, FormatError, "it looks like a zip archive"),
    (8, "zip after a container", lambda: GOOD + zip_bytes(), FormatError, "bytes of tensors after"),
    (8, "pdf", b"%PDF-1.7\n" + bytes(60), FormatError, "it looks like a PDF"),
    (9, "header length 2^63", raw_container(b"{}", length=HUGE), FormatError, "header length at byte 0"),
    (9, "header length 2^64 - 1", raw_container(b"{}", length=2 * HUGE - 1), FormatError, "header length at byte 0"),
    (10, "header past the end", raw_container(b"{}", length=3), FormatError, "expected 2…2"),
    (10, "header of nothing", raw_container(b"", b"{}"), FormatError, "header length at byte 0"),
    (10, "header beyond the cap", lambda: raw_container(b" " * 16_000_001), LimitError, "Limits.header_bytes"),
    (11, "more tensors than the cap", lambda: many_tensors(100_001), LimitError, "more than 100000 tensors"),
    (11, "metadata beyond the cap", raw_container({"__metadata__": dict.fromkeys(map(str, range(1001)), "")}), LimitError, "1000 metadata"),
    (11, "100k tensors that do not fit", lambda: raw_container(f"{{{many_entries(100_000, 'U16')}}}"), FormatError, "expected [0, 2]"),
    (11, "a metadata value of 15 MB", lambda: metadata_of("x" * 15_000_000), LimitError, "Limits.value_bytes"),
    (11, "a metadata value of wide characters", lambda: metadata_of("x" * 2_000_000 + "😀"), LimitError, "Limits.value_bytes"),
    (11, "a metadata value of escapes", lambda: metadata_of("\\ud83d\\ude00" * 150_000), LimitError, "Limits.value_bytes"),
    (11, "metadata that add up", lambda: metadata_of(*["x" * 6_000_000] * 2, "\\n" * 1_000_000), LimitError, "Limits.text_bytes"),
    (11, "names that add up", lambda: raw_container(f'{{{many_entries(16_000, "U8", "n" * 800)}}}'), LimitError, "Limits.text_bytes"),
    (12, "lists 100k deep", text("[" * 100_000), FormatError, "tensor 'a': expected an object"),
    (12, "objects 100k deep", text('{"a":' * 100_000), FormatError, "each of dtype, shape, data_offsets once"),
    (12, "lists 100k deep in a shape", text('{"shape":' + "[" * 100_000), FormatError, f"field 'shape': expected {DIM}"),
    (12, "metadata 100k deep", raw_container('{"__metadata__":' + '{"a":' * 100_000), FormatError, "metadata key 'a': expected a string"),
    (13, "duplicate tensor", text(json.dumps(tensor()) + ',"a":' + json.dumps(tensor())), FormatError, "'a' appears twice"),
    (13, "duplicate field", text('{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}'), FormatError, "once"),
    (13, "duplicate by escape", text(json.dumps(tensor()) + ',"\\u0061":' + json.dumps(tensor())), FormatError, "'a' appears twice"),
    (13, "duplicate metadata", raw_container('{"__metadata__":{"a":"","a":""}}'), FormatError, "metadata key 'a' appears twice"),
    (13, "metadata twice", raw_container('{"__metadata__":{},"__metadata__":{}}'), FormatError, "'__metadata__' appears twice"),
    (13, "unknown field", one(extra=1), FormatError, "each of dtype, shape, data_offsets once"),
    (13, "missing field", text('{"dtype":"U8","shape":[4]}'), FormatError, "each of dtype, shape, data_offsets once"),
    *(
        (14, f"{what} as a dimension", text(f'{{"dtype":"U8","shape":[{what}],"data_offsets":[0,4]}}'), FormatError, "field 'shape'")
        for what in ("NaN", "Infinity", "1e400", "4.0", "true", "null", '"4"', "04", "+4", "4e0")
    ),
    *(
        (14, f"{what} as an offset", text(f'{{"dtype":"U8","shape":[4],"data_offsets":[{what}]}}'), FormatError, "field 'data_offsets'")
        for what in ("0,NaN", "0,4.0", "-0,4", "false,4", "0", "0,4,4", "0,1e1")
    ),
    (15, "invalid UTF-8 in a name", raw_container(b'{"\xff":1}'), FormatError, "not UTF-8"),
    (15, "overlong UTF-8 in a name", raw_container(b'{"\xc0\x80":1}'), FormatError, "not UTF-8"),
    (15, "lone surrogate in a name", raw_container(b'{"\\ud800":1}'), FormatError, "not UTF-8"),
    (15, "NUL in a name", raw_container(b'{"a\\u0000b":1}'), FormatError, "control characters"),
    (15, "raw NUL in a name", raw_container(b'{"a\0b":1}'), FormatError, "expected a key"),
    (15, "newline in a name", raw_container(b'{"a\\nb":1}'), FormatError, "control characters"),
    (15, "empty name", raw_container(b'{"":1}'), FormatError, "a name is empty"),
    (15, "name of 1 MB", raw_container('{"' + "n" * 1_000_000 + '":1}'), LimitError, "a name of more than 1024 bytes"),
    (15, "name of 1 MB in escapes", raw_container('{"' + "\\u0041" * 1_000_000 + '":1}'), LimitError, "a name of more than"),
    (15, "NUL in metadata", raw_container('{"__metadata__":{"a":"\\u0000"}}'), FormatError, "holds NUL"),
    (15, "number as metadata", raw_container('{"__metadata__":{"a":1}}'), FormatError, "metadata key 'a': expected a string"),
    (16, "overlap", raw_container(TWO | {"b": tensor(offsets=(3, 7))}, b"datadata"), FormatError, "expected [4, 8]"),
    (16, "same place", raw_container(TWO | {"b": tensor()}, b"data"), FormatError, "expected [4, 8]"),
    (16, "gap", raw_container(TWO | {"b": tensor(offsets=(5, 9))}, b"datadata!"), FormatError, "expected [4, 8]"),
    (16, "gap at the start", raw_container({"a": tensor(offsets=(1, 5))}, b"!data"), FormatError, "expected [0, 4]"),
    (16, "reversed", one(offsets=(4, 0)), FormatError, "expected [0, 4]"),
    (16, "past the end", one(shape=(400,), offsets=(0, 400)), FormatError, "expected 400 bytes of tensors"),
    (16, "bytes that the shape does not make", one(shape=(3,)), FormatError, "expected [0, 3]"),
    (16, "offset 2^63", one(offsets=(HUGE, HUGE + 4)), FormatError, "expected [0, 4]"),
    (17, "zero size", raw_container(TWO | {"b": tensor("U8", (0,), (4, 4))}, b"data"), FormatError, "dimensions in 1…"),
    (17, "zero size on a shared offset", raw_container(TWO | {"b": tensor("U8", (0,), (0, 0))}, b"data"), FormatError, "field 'shape'"),
    (18, "shape product of 2^64", one(shape=(2**32, 2**32)), FormatError, f"expected [0, {2**64}]"),
    (18, "shape product that wraps to 4", one(shape=(2**62 + 1, 4)), FormatError, f"expected [0, {2**64 + 4}]"),
    (18, "shape product with an item size that wraps", one(dtype="F64", shape=(2**61,)), FormatError, f"expected [0, {2**64}]"),
    (19, "dimension 2^63", one(shape=(HUGE,)), FormatError, "field 'shape'"),
    (19, "dimension of 40 digits", one(shape=(10**40,)), FormatError, "field 'shape'"),
    (19, "dimension -1", one(shape=(-1,)), FormatError, "field 'shape'"),
    (19, "nine dimensions", one(shape=(4,) + (1,) * 8), LimitError, "more than 8 dimensions"),
    (19, "a million dimensions", one(shape=(1,) * 1_000_000), LimitError, "more than 8 dimensions"),
    (22, "no alignment field to lie in", one(alignment=3), FormatError, "each of dtype, shape, data_offsets once"),
    (22, "unknown dtype", one(dtype="F4"), FormatError, "field 'dtype': expected one of BOOL"),
    (22, "dtype as a number", one(dtype=3), FormatError, "field 'dtype': expected a dtype tag"),
    (32, "pickle", pickle.dumps(list(range(100))), FormatError, "perhaps a pickle"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "what", "data", "error", "words"), CASES, ids=[f"line {case[0]}: {case[1]}" for case in CASES])
def test_a_hostile_container_is_refused(
    tmp_path: Path, line: int, what: str, data: bytes | Callable[[], bytes], error: type[KbitError], words: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data if isinstance(data, bytes) else data())
    tracemalloc.start()
    try:
        with pytest.raises(error, match=re.escape(words)) as caught:
            open_container(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 2_000 + len(str(path))
    assert peak < MEMORY


def test_line_11_many_tensors_are_read_up_to_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(many_tensors(20_000))
    with open_container(path, Limits(tensors=20_000)) as container:
        assert len(container.names()) == 20_000
    with pytest.raises(LimitError):
        open_container(path, Limits(tensors=19_999))
    with pytest.raises(LimitError):
        open_container(path, Limits(header_bytes=1000))


def test_line_4_a_future_version_names_the_reader_it_needs(tmp_path: Path) -> None:
    specs = [TensorSpec("a", "U8", (4,))]
    value = {**small_manifest().to_json(), "format": 2, "min_reader": "3.1.4", "new": {"anything": []}}
    with ContainerWriter(tmp_path / "model.safetensors", specs, {"kbit_model": "0" * 64, "kbit": json.dumps(value)}) as writer:
        writer.write("a", filled(specs[0]))
        writer.finish()
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(FormatError, match=r"format version 2: expected 1; reading it needs kbit 3\.1\.4 or newer"):
            verify(path)


@pytest.mark.parametrize("scheme", ["int9:g64", "int0:g64", "nf4:g0", "nf4:g24", "nf4:g2048", "nf4:g-2"])
def test_line_20_bits_and_groups_out_of_range_are_no_scheme(scheme: str) -> None:
    with pytest.raises(SchemeError):
        Scheme.parse(scheme)
    value = small_manifest().to_json()
    next(iter(value["modules"].values()))["scheme"] = scheme
    with pytest.raises(FormatError, match="field 'scheme'"):
        Manifest.from_json(value, "f")


def test_line_20_a_group_larger_than_the_row_is_refused_before_any_kernel(tmp_path: Path) -> None:
    """Arrays as one scale a row has them, under a seal that holds: only the scheme says 128 of 64 columns."""
    write_raw(tmp_path, lambda arrays: None, "nf4:g-1")
    path = tmp_path / "model.safetensors"
    with open_container(path) as sound:
        specs = [TensorSpec(name, sound.entry(name).dtype, sound.entry(name).shape) for name in sound.names()]
        arrays, metadata = {name: sound.array(name) for name in sound.names()}, sound.metadata
    verify(tmp_path)
    metadata = {key: metadata[key].replace("nf4:g-1", "nf4:g128") for key in ("kbit_model", "kbit")}
    with ContainerWriter(path, specs, metadata) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
        writer.finish()
    words = r"module 'm': field 'scheme': expected a group size of at most the 64 columns of a row, got 128 in 'nf4:g128'"
    for target in (tmp_path, path):
        with pytest.raises(FormatError, match=rf"model\.safetensors: metadata 'kbit': field 'modules': {words}"):
            verify(target)


def write_raw(tmp_path: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], None], scheme: str) -> Path:
    """A sealed model of one module whose arrays are changed before they are sealed."""
    manifest = replace(small_manifest(), modules={"m": Module(Scheme.parse(scheme), (16, 64))})
    specs = part_specs("m", manifest.modules["m"])
    arrays = {spec.name: np.zeros(spec.shape, filled(spec).dtype) for spec in specs}
    change(arrays)
    metadata = {"kbit_model": "0" * 64, "kbit": manifest.to_text()}
    with ContainerWriter(tmp_path / "model.safetensors", specs, metadata) as writer:
        for spec in specs:
            writer.write(spec.name, arrays[spec.name])
        writer.finish({**metadata, "kbit_model": manifest.root(writer.hashes)})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def short_codebook(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    arrays["m.weight_codebook"][:] = [0, 1, 2, 2, 2, 2, 2, 2]  # three levels
    arrays["m.weight"][0] = 0xFF  # and codes of 3 bits that reach beyond them


def test_line_21_a_code_beyond_the_codebook(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model\.safetensors: module 'm': expected codes below 3"):
        verify(write_raw(tmp_path, short_codebook, "kmeans3:g64"))


def bad_codebook(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    arrays["m.weight_codebook"][:] = [0, 1, 2, np.nan, 3, 4, 5, 6]


def bad_vectors(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    arrays["m.weight_codebook"][3, 1] = 0x7C00  # infinity in fp16


def bad_super_scale(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    arrays["m.weight_super_scale"][:] = np.inf


def nan_e4m3(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    arrays["m.weight_super_scale"][:] = 1
    arrays["m.weight_scale"][0, 0, 3] = 0x7F


@pytest.mark.parametrize(
    ("scheme", "change"),
    [("kmeans3:g64", bad_codebook), ("vq2d2:g64", bad_vectors), ("nf4:g64:dq8", bad_super_scale), ("nf4:g64:e4m3", nan_e4m3)],
)
def test_line_23_no_number_may_be_nan_or_infinite(tmp_path: Path, scheme: str, change: Callable[..., None]) -> None:
    with pytest.raises(NumericsError, match=r"model\.safetensors: module 'm': "):
        verify(write_raw(tmp_path, change, scheme))


def link_out(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / "outside")
    (folder / name).symlink_to("../outside")


def fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def device(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


def directory(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


@pytest.mark.parametrize("attack", [link_out, fifo, device, directory])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_line_29_only_regular_files_inside_the_folder_are_opened(tmp_path: Path, attack: Callable[[Path, str], None], name: str) -> None:
    write_small_model(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    open_model(tmp_path / "m").close()
    attack(tmp_path / "m", name)
    with pytest.raises((FormatError, StorageError)):
        open_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin"])
def test_line_29_an_index_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FormatError, match="expected a file name"):
        open_model(tmp_path)


def test_line_32_pickles_and_code_are_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    payload = b"cposix\nsystem\n(S'touch " + os.fsencode(marker) + b"'\ntR."
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Evil"}}')
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    for name in ("pytorch_model.bin", "model.safetensors", "tokenizer.json", "model.ckpt"):
        (folder / name).write_bytes(payload)
        with pytest.raises(FormatError):
            open_model(folder)
        with pytest.raises(FormatError):
            open_model(folder, allow_code=True)
        (folder / name).unlink()
    assert not marker.exists()


def test_line_6_and_28_edited_metadata_over_a_sound_payload(tmp_path: Path) -> None:
    write_small_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    data = path.read_bytes()
    for old, new in ((b"nf4:g64", b"nf4:g96"), (b'\\"seed\\":', b'\\"sedd\\":'), (b'"format":"pt"', b'"format":"tf"'), (b"tiny", b"huge")):
        assert data.count(old) >= 1
        path.write_bytes(data.replace(old, new, 1))
        with pytest.raises(IntegrityError, match="expected the digest"):
            open_model(tmp_path / "m")
    path.write_bytes(data)
    open_model(tmp_path / "m").close()


def test_a_container_without_kbit_metadata_needs_no_seal(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(save({"a": np.ones(2, np.float32)}, {"format": "pt", "author": "kbit"}))
    with open_container(tmp_path / "x.safetensors") as container:
        assert container.hashes is None
