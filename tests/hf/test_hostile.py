"""Folders under a seal that holds, with contents that no encoder writes: `from_pretrained` refuses them before any kernel sees them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kbit.core.errors import FormatError, IntegrityError, KbitError, NumericsError
from kbit.hf import KbitConfig
from kbit.store.container import open_container
from kbit.store.manifest import MANIFEST_KEY, Manifest
from kbit.store.model_writer import seal_model

from .conftest import Checkpoint

Make = Callable[..., Checkpoint]
Arrays = dict[str, np.ndarray[Any, Any]]

MODULE = "model.layers.1.mlp.up_proj"


def reseal(folder: Path, change: Callable[[Arrays], None]) -> None:
    """What an attacker with kbit at hand can do: other arrays under a valid seal and root."""
    path = folder / "model.safetensors"
    with open_container(path) as container:
        arrays = {name: container.array(name).copy() for name in container.names()}
        manifest = Manifest.from_text(container.metadata[MANIFEST_KEY], str(path))
    change(arrays)
    save_file(arrays, path)
    seal_model(folder, manifest)


def nan_scale(arrays: Arrays) -> None:
    arrays[f"{MODULE}.weight_scale"][0, 0, 3] = 0x7E00


def code_beyond(arrays: Arrays) -> None:
    codebook = arrays[f"{MODULE}.weight_codebook"]
    codebook[3:] = codebook[2]  # three levels, and codes of all eight


def descending(arrays: Arrays) -> None:
    arrays[f"{MODULE}.weight_codebook"][:] = np.arange(8)[::-1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (nan_scale, NumericsError, "expected finite scales, got nan at [0, 0, 3]"),
        (code_beyond, FormatError, "expected codes below 3"),
        (descending, NumericsError, "expected a codebook of ascending levels"),
        (lambda arrays: None, None, ""),
    ],
)
def test_contents_are_looked_at_before_they_run(
    checkpoint: Make, tmp_path: Path, change: Callable[[Arrays], None], error: type[KbitError] | None, words: str
) -> None:
    source, folder = checkpoint("llama"), tmp_path / "model"
    source.load(quantization_config=KbitConfig("kmeans3:g32")).save_pretrained(folder)
    reseal(folder, change)
    if error is None:
        source.load(folder)
        return
    with pytest.raises(error) as caught:
        source.load(folder)
    assert str(caught.value).startswith(f"{folder / 'model.safetensors'}: module '{MODULE}': {words}")


def test_a_shard_of_another_revision_is_found(checkpoint: Make, tmp_path: Path) -> None:
    source = checkpoint("llama")
    for name, scheme in (("one", "nf4:g32"), ("two", "nf4:g32")):
        model = source.load(quantization_config=KbitConfig(scheme))
        if name == "two":
            model.model.norm.weight.data += 1
        model.save_pretrained(tmp_path / name, max_shard_size="40KB")
    source.load(tmp_path / "one")
    for shard in sorted((tmp_path / "one").glob("*.safetensors")):
        if shard.read_bytes() != (tmp_path / "two" / shard.name).read_bytes():
            shutil.copy(tmp_path / "two" / shard.name, shard)
            break
    with pytest.raises(IntegrityError, match="its metadata names model"):
        source.load(tmp_path / "one")
