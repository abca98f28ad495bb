import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from kbit.core.errors import FormatError, LimitError
from kbit.store.header import DTYPES, Limits, TensorSpec, build_header, scan_header

names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
specs = st.lists(
    st.builds(TensorSpec, names, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 4), max_size=3).map(tuple)),
    max_size=6,
    unique_by=lambda spec: spec.name,
)
metadata = st.dictionaries(names, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), max_size=3)


@settings(deadline=None, max_examples=100)
@given(specs, metadata)
def test_what_is_built_is_scanned_and_the_reference_library_agrees(specs: list[TensorSpec], metadata: dict[str, str]) -> None:
    head = build_header(specs, metadata)
    size = sum(spec.nbytes for spec in specs)
    header = scan_header(head, size, "f", Limits())
    assert header.metadata == metadata
    assert [(name, entry.dtype, entry.shape) for name, entry in header.entries.items()] == [(s.name, s.dtype, s.shape) for s in specs]
    assert len(head) % 64 == 0

    reference = dict(deserialize(head + bytes(size)))
    assert {name: (item["dtype"], tuple(item["shape"]), len(item["data"])) for name, item in reference.items()} == {
        name: (entry.dtype, entry.shape, entry.nbytes) for name, entry in header.entries.items()
    }


@settings(deadline=None, max_examples=50)
@given(specs, metadata, st.randoms(use_true_random=False))
def test_any_spacing_and_order_of_fields_reads_like_json(specs: list[TensorSpec], metadata: dict[str, str], random: object) -> None:
    fields, end = {"__metadata__": metadata}, 0
    for spec in specs:
        begin, end = end, end + spec.nbytes
        items = [("dtype", spec.dtype), ("shape", list(spec.shape)), ("data_offsets", [begin, end])]
        random.shuffle(items)  # type: ignore[attr-defined]
        fields[spec.name] = dict(items)
    text = json.dumps(fields, indent=1, separators=(" ,\t", "\n: "), ensure_ascii=False).encode()
    header = scan_header(len(text).to_bytes(8, "little") + text, end, "f", Limits())
    assert set(header.entries) == {spec.name for spec in specs}
    for spec in specs:
        assert header.entries[spec.name][:2] == (spec.dtype, spec.shape)
        assert header.entries[spec.name].offset == 8 + len(text) + fields[spec.name]["data_offsets"][0]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80).map(lambda tail: b'{"a":' + tail), st.integers(0, 8))
def test_any_bytes_are_read_or_refused_with_a_typed_error(text: bytes, size: int) -> None:
    with suppress(FormatError):
        header = scan_header(len(text).to_bytes(8, "little") + text, size, "f", Limits())
        assert json.loads(text).keys() == header.entries.keys()


def test_limits_are_configurable() -> None:
    specs = [TensorSpec(f"t{index}", "U8", (1,)) for index in range(3)]
    head = build_header(specs, {"a": "", "b": ""})
    assert len(scan_header(head, 3, "f", Limits(tensors=3, metadata_entries=2, name_bytes=12, rank=1)).entries) == 3
    for limits in (Limits(tensors=2), Limits(metadata_entries=1), Limits(name_bytes=1), Limits(rank=0)):
        with pytest.raises(LimitError):
            scan_header(head, 3, "f", limits)


def test_scalars_have_one_element() -> None:
    head = build_header([TensorSpec("s", "F32", ())], {})
    assert scan_header(head, 4, "f", Limits()).entries["s"].shape == ()


def test_a_header_larger_than_its_room_is_refused() -> None:
    with pytest.raises(LimitError, match="does not fit"):
        build_header([TensorSpec("s", "F32", ())], {}, 10)


def test_every_dtype_has_the_size_its_tag_names() -> None:
    for tag, dtype in DTYPES.items():
        digits = "".join(filter(str.isdecimal, tag.split("_")[0]))
        assert dtype.itemsize * 8 == int(digits or 8)
        assert dtype == np.dtype(dtype.str.replace(">", "<"))
