import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kbit.core.errors import FormatError, IntegrityError, KbitError
from kbit.store.container import open_container
from kbit.store.folder import open_model
from kbit.store.header import TensorSpec
from kbit.store.shards import INDEX_NAME
from kbit.store.writer import ContainerWriter

from .conftest import CONFIG, PLAIN, filled, random_tensor, small_manifest, write_small_model

NORM = PLAIN[0]
MODULE = "model.layers.0.up_proj"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_small_model(tmp_path / "m", max_shard_bytes=1500)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 3
    return tmp_path / "m"


@pytest.mark.parametrize("max_shard_bytes", [10**9, 1500])
def test_what_was_written_is_read(tmp_path: Path, max_shard_bytes: int) -> None:
    manifest = small_manifest(ties={"lm_head.weight": "model.embed_tokens.weight", "twin": MODULE})
    root = write_small_model(tmp_path / "m", manifest, max_shard_bytes=max_shard_bytes)
    with open_model(tmp_path / "m") as model:
        assert model.config == CONFIG
        assert model.manifest == manifest
        assert model.root == root
        assert set(model.plain_names()) == {spec.name for spec in PLAIN}
        for spec in PLAIN:
            assert model.array(spec.name).tobytes() == filled(spec).tobytes()
            assert model.entry(spec.name).dtype == "BF16"
            assert model.read_rows(spec.name, 3, 5).tobytes() == filled(spec)[3:5].tobytes()
        for name, module in manifest.modules.items():
            found, expected = model.quantized(name).parts(), random_tensor(name, module).parts()
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[part], expected[part]) for part in expected)
        assert np.array_equal(model.quantized("twin").weight, model.quantized(MODULE).weight)
        for name in model.names():
            model.check(name)
        assert model.size_bytes == sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
        assert np.array_equal(model.array("lm_head.weight"), model.array("model.embed_tokens.weight"))


def test_sharding_does_not_change_the_root(tmp_path: Path) -> None:
    assert write_small_model(tmp_path / "a") == write_small_model(tmp_path / "b", max_shard_bytes=1500)


def test_other_libraries_read_the_shards_by_the_index(sharded: Path) -> None:
    index = json.loads((sharded / INDEX_NAME).read_text())
    sizes = 0
    for name in set(index["weight_map"].values()):
        with open_container(sharded / name) as container:
            assert {tensor for tensor, file in index["weight_map"].items() if file == name} == set(container.names())
            sizes += sum(container.entry(tensor).nbytes for tensor in container.names())
            if not any(container.entry(tensor).dtype == "BF16" for tensor in container.names()):
                assert load_file(sharded / name).keys() == set(container.names())
    assert index["metadata"]["total_size"] == sizes


def test_a_plain_checkpoint_opens_without_a_manifest(tmp_path: Path) -> None:
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with open_model(tmp_path) as model:
        assert (model.manifest, model.root, dict(model.tied)) == (None, None, {})
        assert model.array("a").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert model.plain_names() == model.names() == ("a",)
        with pytest.raises(FormatError, match="no quantized module 'a'"):
            model.quantized("a")
        with pytest.raises(FormatError, match="has no tensor 'b'"):
            model.array("b")


def test_real_checkpoints_open(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("models/*")):
        with open_model(path) as model:
            assert model.manifest is None
            assert "model.embed_tokens.weight" in model


def reseal(path: Path, metadata: dict[str, str], specs: list[TensorSpec] | None = None) -> None:
    """Write a container anew under a valid seal, with other metadata or tensors: what an attacker with kbit at hand can do."""
    with open_container(path) as container:
        arrays = {name: container.array(name) for name in container.names()}
        specs = specs or [TensorSpec(name, container.entry(name).dtype, container.entry(name).shape) for name in container.names()]
        kept = {key: value for key, value in container.metadata.items() if key not in ("kbit_digest", "kbit_hashes")}
    with ContainerWriter(path, specs, {**kept, **metadata}) as writer:
        for spec in specs:
            writer.write(spec.name, arrays.get(spec.name, filled(spec)).reshape(spec.shape).astype(filled(spec).dtype))
        writer.finish()


def first(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def drop_shard(folder: Path) -> None:
    first(folder).unlink()


def other_revision(folder: Path) -> None:
    write_small_model(folder.parent / "other", small_manifest(seed=8), max_shard_bytes=1500)
    shutil.copy(first(folder.parent / "other"), first(folder))


def same_shard_twice(folder: Path) -> None:
    paths = sorted(folder.glob("model-*.safetensors"))
    shutil.copy(paths[0], paths[1])


def other_root(folder: Path) -> None:
    reseal(first(folder), {"kbit_model": "0" * 64})


def no_root(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    name = first(folder).name
    spec = [TensorSpec(tensor, "U8", (1,)) for tensor, file in index.items() if file == name]
    with ContainerWriter(first(folder), spec, {"kbit": "{}"}) as writer:
        for item in spec:
            writer.write(item.name, filled(item))
        writer.finish()


def unsealed_shard(folder: Path) -> None:
    with open_container(first(folder)) as container:
        arrays = {name: container.array(name) for name in container.names()}
    save_file({name: array.copy() for name, array in arrays.items()}, first(folder))


def index_lacks(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    del index["weight_map"][NORM.name]
    (folder / INDEX_NAME).write_text(json.dumps(index))


def index_adds(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["ghost"] = first(folder).name
    (folder / INDEX_NAME).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("attack", "error", "words"),
    [
        (drop_shard, FormatError, "which is missing"),
        (other_revision, KbitError, "is not of the same model as|names model"),
        (same_shard_twice, FormatError, "lies in model-00001-of-00003.safetensors and in model-00002|but the index says"),
        (other_root, IntegrityError, "names model '000"),
        (no_root, FormatError, "lacks 'kbit"),
        (unsealed_shard, FormatError, "carries no seal"),
        (index_lacks, FormatError, "but the index says None"),
        (index_adds, FormatError, "first 'ghost'"),
    ],
)
def test_shards_that_do_not_belong_together(sharded: Path, attack: Callable[[Path], None], error: type[Exception], words: str) -> None:
    attack(sharded)
    with pytest.raises(error, match=words):
        open_model(sharded)


def test_a_tensor_swapped_for_another_revision_of_it_is_found_by_the_root(tmp_path: Path) -> None:
    """A file sealed anew around other bytes is no longer the model that its metadata names."""
    write_small_model(tmp_path / "m")
    reseal(tmp_path / "m" / "model.safetensors", {}, specs=None)
    open_model(tmp_path / "m").close()
    path = tmp_path / "m" / "model.safetensors"
    with open_container(path) as container:
        specs = [TensorSpec(name, container.entry(name).dtype, container.entry(name).shape) for name in container.names()]
    changed = [replace(spec, shape=(1, 64)) if spec.name == NORM.name else spec for spec in specs]
    reseal(path, {}, changed)
    with pytest.raises(IntegrityError, match="its metadata names model"):
        open_model(tmp_path / "m")


def sealed_with(tmp_path: Path, change: Callable[[dict[str, TensorSpec]], Any], manifest: Any = None) -> Path:
    """A model whose seal and root are right, and whose arrays are not what its manifest says."""
    manifest = manifest or small_manifest()
    write_small_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    with open_container(path) as container:
        specs = {name: TensorSpec(name, container.entry(name).dtype, container.entry(name).shape) for name in container.names()}
    change(specs)
    with ContainerWriter(path, list(specs.values()), {"kbit_model": "0" * 64, "kbit": manifest.to_text(), "format": "pt"}) as writer:
        for spec in specs.values():
            writer.write(spec.name, filled(spec))
        writer.finish({"kbit_model": manifest.root(writer.hashes), "kbit": manifest.to_text(), "format": "pt"})
    return tmp_path / "m"


SCALE = f"{MODULE}.weight_scale"


ZERO = f"{MODULE}.weight_zero"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda specs: specs.pop(f"{MODULE}.weight"), "got none"),
        (lambda specs: specs.pop(SCALE), "got none"),
        (
            lambda specs: specs.update({SCALE: TensorSpec(SCALE, "U16", (2, 2, 8))}),
            r"U16 of shape \[2, 2, 16\], got U16 of shape \[2, 2, 8\]",
        ),
        (lambda specs: specs.update({SCALE: TensorSpec(SCALE, "F16", (2, 2, 16))}), "got F16"),
        (lambda specs: specs.update({ZERO: TensorSpec(ZERO, "U8", (2, 2, 16))}), "no such array, got U8"),
    ],
)
def test_arrays_follow_from_scheme_and_shape(tmp_path: Path, change: Callable[[dict[str, TensorSpec]], Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        open_model(sealed_with(tmp_path, change))


@pytest.mark.parametrize(
    "ties", [{"model.norm.weight": "model.embed_tokens.weight"}, {"lm_head.weight": "absent"}, {MODULE: "model.embed_tokens.weight"}]
)
def test_ties_lead_from_absent_to_present_names(tmp_path: Path, ties: dict[str, str]) -> None:
    with pytest.raises(FormatError, match="is tied to"):
        open_model(sealed_with(tmp_path, lambda specs: None, small_manifest(ties=ties)))


def test_contents_that_no_encoder_writes_are_refused_when_a_module_is_read(tmp_path: Path) -> None:
    folder = sealed_with(tmp_path, lambda specs: None)  # random bytes in the padding rows
    with open_model(folder) as model, pytest.raises(KbitError, match=rf"model\.safetensors: module '{MODULE}': "):
        model.quantized(MODULE)


def test_kbit_in_the_config_and_no_seal_in_the_file(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FormatError, match="carry no seal"):
        open_model(tmp_path)
    open_model(tmp_path, require_seal=False).close()
