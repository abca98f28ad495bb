"""`kbit decode`: an ordinary checkpoint with the weights that the packed model stands for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit.cli.reference import KEYS
from kbit.store.folder import open_model


def test_writes_the_decoded_weights(kbit: Callable, packed_model: Path, tmp_path: Path) -> None:
    called = kbit("decode", packed_model, "-o", tmp_path / "out", "--json")
    assert called.code == 0, called.err
    assert set(called.json) == set(KEYS["decode"].split())
    assert called.json["dtype"] == "float32"
    assert called.json["file_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    with open_model(packed_model) as packed, open_model(tmp_path / "out") as plain:
        assert plain.manifest is None
        name = "model.layers.1.mlp.down_proj"
        np.testing.assert_array_equal(plain.array(f"{name}.weight"), packed.quantized(name).dequantize())
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_dtype(kbit: Callable, packed_model: Path, tmp_path: Path) -> None:
    assert kbit("decode", packed_model, "-o", tmp_path / "out", "--dtype", "bfloat16").code == 0
    with open_model(tmp_path / "out") as plain:
        assert {plain.entry(name).dtype for name in plain.names()} == {"BF16"}


@pytest.mark.parametrize(("arguments", "code"), [(("--dtype", "int8"), 2), ((), 1)])
def test_what_cannot_be_decoded(arguments: tuple, code: int, kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    called = kbit("decode", tiny_model, "-o", tmp_path / "out", *arguments)
    assert called.code == code
    assert not (tmp_path / "out").exists()


def test_a_destination_that_is_there_is_kept(kbit: Callable, packed_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert kbit("decode", packed_model, "-o", tmp_path / "out").code == 1
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
