import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kbit.core.errors import FormatError, IntegrityError, KbitError, NumericsError
from kbit.store.manifest import Manifest
from kbit.store.model_writer import ModelWriter
from kbit.store.verify import VerifyReport, verify
from kbit.tensor.quantized import QuantizedTensor

from .conftest import CONFIG, random_tensor, small_manifest, write_small_model


def test_a_sound_model(tmp_path: Path) -> None:
    root = write_small_model(tmp_path / "m", max_shard_bytes=1500)
    size = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    assert verify(tmp_path / "m") == VerifyReport(True, root, 3, 7, 2, size)


def test_a_single_container(tmp_path: Path) -> None:
    root = write_small_model(tmp_path / "m")
    report = verify(tmp_path / "m" / "model.safetensors")
    assert (report.root, report.tensors, report.files) == (root, 7, 1)


def test_a_plain_checkpoint_has_structure_only(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert verify(tmp_path) == VerifyReport(True, None, 1, 0, 0, (tmp_path / "model.safetensors").stat().st_size)
    assert verify(tmp_path / "model.safetensors").root is None
    os.truncate(tmp_path / "model.safetensors", 70)
    with pytest.raises(FormatError):
        verify(tmp_path)


def test_one_flipped_bit_in_each_byte_of_a_model_is_found(tmp_path: Path) -> None:
    """Every 37th byte through the whole of `verify`; every bit of every byte is in test_seal.py."""
    write_small_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    with path.open("r+b", buffering=0) as file:
        data = file.read()
        for at in range(0, len(data), 37):
            os.pwrite(file.fileno(), bytes([data[at] ^ 1 << at % 8]), at)
            with pytest.raises(KbitError):
                verify(tmp_path / "m")
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert verify(tmp_path / "m").ok


def test_a_flipped_payload_is_an_integrity_error(tmp_path: Path) -> None:
    write_small_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 4]))
    with pytest.raises(IntegrityError, match=r"model\.safetensors: tensor '.*' at byte \d+: expected sha256"):
        verify(tmp_path / "m")


NAME = "model.layers.0.up_proj"


def write_with(tmp_path: Path, **changes: object) -> Path:
    """A model of one module whose arrays are sealed as they are, sound or not."""
    manifest = small_manifest().part([NAME])
    sound = random_tensor(NAME, manifest.modules[NAME])
    parts = {**sound.parts(), **changes}
    tensor = QuantizedTensor.from_parts(sound.scheme, sound.shape, parts)  # type: ignore[arg-type]
    with ModelWriter(tmp_path / "m", Manifest(manifest.plan, manifest.modules)) as writer:
        writer.put_quantized(NAME, tensor)
        writer.finish(CONFIG)
    return tmp_path / "m"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    scale = random_tensor(NAME, small_manifest().modules[NAME]).scale.copy()
    scale[1, 1, 2] = np.float16(value).view(np.uint16)
    with pytest.raises(NumericsError, match=rf"model\.safetensors: module '{NAME}': expected finite scales"):
        verify(write_with(tmp_path, weight_scale=scale))


@pytest.mark.parametrize("value", [6e-8, -6e-8, 0.0, -1.0])
def test_denormal_zero_and_negative_scales_are_numbers(tmp_path: Path, value: float) -> None:
    scale = random_tensor(NAME, small_manifest().modules[NAME]).scale.copy()
    scale[0, 0, 0] = np.float16(value).view(np.uint16)
    assert verify(write_with(tmp_path, weight_scale=scale)).ok


def test_padding_codes_are_zero(tmp_path: Path) -> None:
    weight = random_tensor(NAME, small_manifest().modules[NAME]).weight.copy()
    weight[-1] = 0xFF  # row 32 of 20
    with pytest.raises(FormatError, match=f"module '{NAME}': expected codes below 16 and padding of 0"):
        verify(write_with(tmp_path, weight=weight))
