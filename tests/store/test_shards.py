import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import FormatError, LimitError
from kbit.store.header import TensorSpec
from kbit.store.shards import INDEX_NAME, SINGLE_NAME, find_shards, locate, plan_shards, read_index, write_index


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=3), min_size=1, max_size=12), st.integers(1, 120))
def test_a_plan_keeps_order_groups_and_sizes(sizes: list[list[int]], limit: int) -> None:
    groups = [tuple(TensorSpec(f"{index}.{part}", "U8", (size,)) for part, size in enumerate(group)) for index, group in enumerate(sizes)]
    plan = plan_shards(groups, limit)
    assert [spec for shard in plan.values() for spec in shard] == [spec for group in groups for spec in group]
    for shard in plan.values():
        numbers = {spec.name.split(".")[0] for spec in shard}
        assert sum(spec.nbytes for spec in shard) <= limit or len(numbers) == 1
        for group in groups:
            assert set(group) <= set(shard) or not set(group) & set(shard)
    several = [f"model-{number:05}-of-{len(plan):05}.safetensors" for number in range(1, len(plan) + 1)]
    assert list(plan) == ([SINGLE_NAME] if len(plan) == 1 else several)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(LimitError):
        plan_shards([], 0)


def test_index_round_trip(tmp_path: Path) -> None:
    weight_map = {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}
    write_index(tmp_path, weight_map, 7)
    assert read_index(tmp_path) == weight_map
    assert json.loads((tmp_path / INDEX_NAME).read_text())["metadata"] == {"total_size": 7}
    assert find_shards(tmp_path) == (tuple(sorted(weight_map.values())), weight_map)


OUTSIDE = ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", ".x.safetensors", "x.safetensors\0", "..", ""]


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}, {"a": None}, *({"a": name} for name in OUTSIDE)])
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, weight_map: Any) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(FormatError, match="field 'weight_map'"):
        read_index(tmp_path)


def test_an_index_of_any_size_is_bounded(tmp_path: Path) -> None:
    wide = '{"weight_map":{"a":"' + "x" * 8_000_000 + "\U0001f600" + '"}}'
    lists = '{"weight_map":{"a":' + "[]," * 1000 + "}}"
    for text in (
        lists,
        '{"weight_map":{' + '"a":"b",' * 400_000 + "}}",
        "[" * 100_000,
        wide,
        "9" * 10_000_000,
        '{"a":"' + '\\"' * 5_000_000,
    ):
        (tmp_path / INDEX_NAME).write_text(text)
        tracemalloc.start()
        with pytest.raises(FormatError) as caught:
            read_index(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20
        assert len(str(caught.value)) < 1_000
    with (tmp_path / INDEX_NAME).open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(LimitError):
        read_index(tmp_path)


def test_one_model_or_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no model\.safetensors"):
        find_shards(tmp_path)
    (tmp_path / SINGLE_NAME).touch()
    assert find_shards(tmp_path) == ((SINGLE_NAME,), None)
    write_index(tmp_path, {"a": "model-1.safetensors"}, 1)
    with pytest.raises(FormatError, match="two revisions"):
        find_shards(tmp_path)


def test_links_stay_inside_or_lead_into_the_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").touch()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "out.safetensors").symlink_to("../secret.safetensors")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "real.safetensors").touch()
    (folder / "in.safetensors").symlink_to("real.safetensors")
    assert locate(folder, "in.safetensors") == folder / "real.safetensors"
    with pytest.raises(FormatError):
        locate(folder, "out.safetensors")

    snapshot = tmp_path / "models--x" / "snapshots" / "0f"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--x" / "blobs").mkdir()
    (tmp_path / "models--x" / "blobs" / "beef").touch()
    (snapshot / "ok.safetensors").symlink_to("../../blobs/beef")
    (snapshot / "out.safetensors").symlink_to("../../../secret.safetensors")
    assert locate(snapshot, "ok.safetensors").name == "beef"
    with pytest.raises(FormatError):
        locate(snapshot, "out.safetensors")


def test_a_fifo_index_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / INDEX_NAME)
    with pytest.raises(FormatError, match="FIFO"):
        read_index(tmp_path)
