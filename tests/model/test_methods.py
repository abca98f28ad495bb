"""Methods on folders: the bytes of a module, resumed after a stop, run by the engine; importance files instead of a text."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kbit
from kbit.calibrate import CalibrationWindows, GeneratedText
from kbit.core.errors import ModelError, SchemeError, StorageError
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.model import load, quantize_folder
from kbit.model.importance import calibrate_folder
from kbit.store.folder import open_model
from kbit.store.model_writer import ModelWriter

from .conftest import arrays

Checkpoint = Callable[..., Path]
ALL = "int3:g32+awq+hqq+imp+gptq+bias"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_folder_and_module_give_the_same_bytes(
    kind: str, dtype: torch.dtype, checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path
) -> None:
    source = checkpoint(kind, dtype)
    result = quantize_folder(source, tmp_path / "folder", ALL, calibration=windows, progress=False)
    assert result.calibration is not None
    assert result.calibration["awq"]
    assert bool(result.calibration["bias"]) == (kind == "gpt2")
    model = kbit.encode(source, ALL, calibration=windows, mode="exact", progress=False)
    assert isinstance(model, nn.Module)
    kbit.save(model, tmp_path / "module")
    found = arrays(tmp_path / "folder")
    assert found == arrays(tmp_path / "module")
    with open_model(source) as stored:
        original = {name: stored.array(name).tobytes() for name in stored.names()}
    changed = {name for name in found.keys() & original.keys() if found[name] != original[name]}
    assert any("norm" in name or "ln_" in name for name in changed)
    assert any(name.endswith("c_fc.bias") for name in changed) == (kind == "gpt2")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(
    kind: str, checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(kind)
    quantize_folder(source, tmp_path / "whole", ALL, calibration=windows, progress=False)
    expected = arrays(tmp_path / "whole")
    calls: list[str] = []
    put, rows = ModelWriter.put_quantized, ModelWriter.put_rows

    def stop(call: Callable) -> Callable:
        def stopped(self: ModelWriter, name: str, *values: object) -> None:
            calls.append(name)
            if len(calls) in (3, 7, 21):
                raise KeyboardInterrupt
            call(self, name, *values)

        return stopped

    monkeypatch.setattr(ModelWriter, "put_quantized", stop(put))
    monkeypatch.setattr(ModelWriter, "put_rows", stop(rows))
    for attempt in range(4):
        try:
            quantize_folder(source, tmp_path / "out", ALL, calibration=windows, progress=False)
            break
        except KeyboardInterrupt:
            assert attempt < 3
    assert attempt == 3
    assert arrays(tmp_path / "out") == expected


def test_the_engine_runs_it(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    quantize_folder(checkpoint("gpt2"), tmp_path / "out", ALL, calibration=windows, progress=False)
    ids = windows.ids[0]
    engine = Engine.load(tmp_path / "out", mode="exact", cache="fp32")
    logits = engine.step([Feed(engine.sequence(), ids.tolist(), "all")])
    with torch.no_grad():
        expected = load(tmp_path / "out", mode="exact", dtype=torch.float32)(input_ids=torch.from_numpy(ids[None])).logits[0]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_hqq_needs_no_text(checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = quantize_folder(checkpoint("llama"), tmp_path / "out", "int3:g32:asym+hqq", progress=False)
    assert result.calibration is None
    model = kbit.encode(checkpoint("llama"), "int3:g32:asym+hqq", progress=False)
    assert isinstance(model, nn.Module)
    kbit.save(model, tmp_path / "module")
    assert arrays(tmp_path / "out") == arrays(tmp_path / "module")


def test_hessians_on_disk_give_the_same_bytes(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    for name, limit in (("free", None), ("tight", 1)):
        quantize_folder(
            checkpoint("mixtral"), tmp_path / name, "int3:g32+gptq", calibration=windows, calibration_memory_bytes=limit, progress=False
        )
    assert arrays(tmp_path / "free") == arrays(tmp_path / "tight")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "tight"]


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_an_importance_file_stands_for_a_text(kind: str, checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    source, file = checkpoint(kind), tmp_path / "importance.safetensors"
    importance = calibrate_folder(source, file, windows, progress=False)
    result = quantize_folder(source, tmp_path / "file", "nf3:g32+imp", importance=file, progress=False)
    assert result.calibration is None
    quantize_folder(source, tmp_path / "object", "nf3:g32+imp", importance=importance, progress=False)
    quantize_folder(source, tmp_path / "text", "nf3:g32+imp", calibration=windows, progress=False)
    found, by_text = arrays(tmp_path / "file"), arrays(tmp_path / "text")
    assert found == arrays(tmp_path / "object")
    first = [name for name in found if ".0.self_attn.q_proj" in name]  # its inputs are those of the original model in both
    assert first
    assert all(found[name] == by_text[name] for name in first)
    with open_model(tmp_path / "file") as stored:
        assert stored.manifest.calibration_digest == windows.digest
        assert stored.manifest.seed == 7
    with pytest.raises(SchemeError, match=r"'\+gptq' needs the calibration itself"):
        quantize_folder(source, tmp_path / "x", "nf3:g32+imp+gptq", importance=file, progress=False)
    with pytest.raises(SchemeError, match="got both"):
        quantize_folder(source, tmp_path / "x", "nf3:g32+imp", importance=file, calibration=windows, progress=False)
    with pytest.raises(StorageError, match="it is there already"):
        calibrate_folder(source, file, windows, progress=False)
    other = "mixtral" if kind == "llama" else "llama"
    with pytest.raises(ModelError, match="the importance file has nothing for it"):
        quantize_folder(checkpoint(other), tmp_path / "x", "nf3:g32+imp", importance=file, progress=False)


def test_a_model_calibrates_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = GeneratedText(tokens=128, context=32, seed=2)
    results = [quantize_folder(checkpoint("gpt2"), tmp_path / name, "int3:g32+gptq", calibration=text, progress=False) for name in "ab"]
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")
    assert [result.calibration["tokens"] for result in results if result.calibration] == [128, 128]
    source = tmp_path / "nameless"
    source.mkdir()
    for path in checkpoint("gpt2").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("bos_token_id", "eos_token_id")}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="neither bos_token_id nor eos_token_id"):
        quantize_folder(source, tmp_path / "x", "int3:g32+gptq", calibration=text, progress=False)


def test_encoded_input_is_refused(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    quantize_folder(checkpoint("llama"), tmp_path / "once", "int4:g32", progress=False)
    for scheme, given in (("int3:g32+hqq", None), (ALL, windows)):
        with pytest.raises(ModelError, match="is already quantized"):
            quantize_folder(tmp_path / "once", tmp_path / "twice", scheme, calibration=given, progress=False)
    with pytest.raises(ModelError, match="is already quantized"):
        calibrate_folder(tmp_path / "once", tmp_path / "i", windows, progress=False)
