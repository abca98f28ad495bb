"""Relative distances of weights."""

import math
from pathlib import Path

import numpy as np
import pytest

from kbit.cli.originals import Original, relative_error
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.store.header import TensorSpec, build_header


def test_relative_error() -> None:
    weight = np.array([[3.0, 4.0]], np.float32)
    assert relative_error(weight, np.array([[3.0, 3.0]], np.float32)) == pytest.approx(0.2)
    zero = np.zeros_like(weight)
    assert relative_error(zero, zero) == 0.0
    assert relative_error(zero, weight) == math.inf


def _save(folder: Path, name: str, array: np.ndarray, dtype: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = build_header([TensorSpec(name, dtype, array.shape)], {})
    (folder / "model.safetensors").write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("kind", "transposed"), [("linear", False), ("conv1d", True)])
def test_finds_the_weight_whichever_way_it_lies(kind: str, transposed: bool, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16 by truncation
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    _save(tmp_path / "m", "layer.weight", np.ascontiguousarray(bits.T if transposed else bits), "BF16")
    encoded = encode(rounded, Scheme.parse("int8:g64"), name="layer")
    found = Original(str(tmp_path / "m")).weight("layer", kind, encoded.shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, rounded)
    assert 0 < relative_error(found, encoded.dequantize()) < 0.01


def test_a_weight_that_is_not_there_is_none(tmp_path: Path) -> None:
    weight = np.ones((16, 64), np.float32)
    _save(tmp_path / "m", "other.weight", weight, "F32")
    original = Original(str(tmp_path / "m"))
    assert original.weight("layer", "linear", (16, 64)) is None
    assert original.weight("other", "linear", (16, 63)) is None
