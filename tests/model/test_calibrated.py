"""Folders and modules encoded by their inputs: the same bytes either way, resumed after a stop, run by the engine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import kbit
from kbit.calibrate import CalibrationText, CalibrationWindows
from kbit.core.errors import ModelError, ResumeMismatch, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.model import calibrated, load, quantize_folder
from kbit.store.folder import open_model
from kbit.store.model_writer import ModelWriter

from .conftest import VOCABULARY, arrays, run

Checkpoint = Callable[..., Path]
GPTQ = "int3:g32+imp+gptq"


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("text", [GPTQ, "nf3:g16+imp", "vq2d3:g96+imp+gptq", "int3:g32+rotate+imp+gptq", "nf3:g16+rotate+imp"])
def test_folder_and_module_give_the_same_bytes(
    kind: str, text: str, checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path
) -> None:
    result = quantize_folder(checkpoint(kind), tmp_path / "folder", text, calibration=windows, progress=False)
    model = kbit.encode(checkpoint(kind), text, calibration=windows, mode="exact", progress=False)
    assert isinstance(model, nn.Module)
    kbit.save(model, tmp_path / "module")
    assert arrays(tmp_path / "folder") == arrays(tmp_path / "module")
    assert result.calibration is not None
    assert result.calibration["tokens"] == 96
    for folder in ("folder", "module"):
        with open_model(tmp_path / folder) as stored:
            assert stored.manifest.calibration_digest == windows.digest
            assert stored.manifest.seed == 7
            methods = {module.scheme.text.partition("+")[2].replace("folded", "rotate") for module in stored.manifest.modules.values()}
            assert methods == {text.partition("+")[2]}
    torch.testing.assert_close(run(load(tmp_path / "folder", mode="exact"), kind), run(model, kind))


def test_plugin_saves_what_was_calibrated(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    model = kbit.encode(checkpoint("llama"), GPTQ, calibration=windows, progress=False)
    model.save_pretrained(tmp_path / "out")
    with open_model(tmp_path / "out") as stored:
        assert stored.manifest.calibration_digest == windows.digest
        assert stored.manifest.seed == 7


def test_halves_are_encoded_from_what_the_checkpoint_holds(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    plan = Plan(Scheme.parse("nf3:g32+gptq"), rules=(("k_proj", Scheme.parse("int4:g32")),), embedding=Scheme.parse("int8:g32"))
    source = checkpoint("llama", torch.bfloat16)
    quantize_folder(source, tmp_path / "out", plan, calibration=windows, progress=False)
    quantize_folder(source, tmp_path / "plain", Plan(Scheme.parse("int4:g32"), embedding=Scheme.parse("int8:g32")), progress=False)
    mixed, plain = arrays(tmp_path / "out"), arrays(tmp_path / "plain")
    same = [name for name in mixed if "k_proj" in name or "embed_tokens" in name or "norm" in name]
    assert len(same) > 8
    assert all(mixed[name] == plain[name] for name in same)


def test_the_engine_runs_it(checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path) -> None:
    quantize_folder(checkpoint("llama"), tmp_path / "out", GPTQ, calibration=windows, progress=False)
    ids = windows.ids[0]
    engine = Engine.load(tmp_path / "out", mode="exact", cache="fp32")
    logits = engine.step([Feed(engine.sequence(), ids.tolist(), "all")])
    with torch.no_grad():
        expected = load(tmp_path / "out", mode="exact", dtype=torch.float32)(input_ids=torch.from_numpy(ids[None])).logits[0]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_stopped_run_goes_on_with_the_same_bytes(
    checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint("llama")
    quantize_folder(source, tmp_path / "whole", GPTQ, calibration=windows, progress=False)
    put, calls = ModelWriter.put_quantized, []

    def stop_at_ten(self: ModelWriter, module: str, tensor: object) -> None:
        calls.append(module)
        if len(calls) == 10:
            raise KeyboardInterrupt
        put(self, module, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(ModelWriter, "put_quantized", stop_at_ten)
        with pytest.raises(KeyboardInterrupt):
            quantize_folder(source, tmp_path / "out", GPTQ, calibration=windows, progress=False)
    again: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(ModelWriter, "put_quantized", lambda self, module, tensor: (again.append(module), put(self, module, tensor)))
        quantize_folder(source, tmp_path / "out", GPTQ, calibration=windows, progress=False)
    assert set(again) == {name for name in again if name not in calls[:9]}
    assert len(again) == 14 - 9
    assert arrays(tmp_path / "out") == arrays(tmp_path / "whole")


def test_a_run_goes_on_in_the_arithmetic_it_began_in(
    checkpoint: Checkpoint, windows: CalibrationWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, put = checkpoint("llama"), ModelWriter.put_quantized

    def stop_at_the_last(self: ModelWriter, module: str, tensor: object) -> None:
        if "layers.1.mlp.down_proj" in module:
            raise KeyboardInterrupt
        put(self, module, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(ModelWriter, "put_quantized", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            quantize_folder(source, tmp_path / "out", GPTQ, calibration=windows, calibration_arithmetic="bfloat16", progress=False)
    with pytest.raises(ResumeMismatch):
        quantize_folder(source, tmp_path / "out", GPTQ, calibration=windows, progress=False)
    quantize_folder(source, tmp_path / "out", GPTQ, calibration=windows, calibration_arithmetic="bfloat16", progress=False)
    model = kbit.encode(source, GPTQ, calibration=windows, calibration_arithmetic="bfloat16", progress=False)
    assert isinstance(model, nn.Module)
    kbit.save(model, tmp_path / "module")
    assert arrays(tmp_path / "out") == arrays(tmp_path / "module")
    quantize_folder(source, tmp_path / "exact", GPTQ, calibration=windows, progress=False)
    assert arrays(tmp_path / "out") != arrays(tmp_path / "exact")


def test_texts_and_tokenizers_of_folders(checkpoint: Checkpoint, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"w{i * 7 % VOCABULARY}" for i in range(400)))
    source = tmp_path / "source"
    source.mkdir()
    for file in checkpoint("llama").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(source / "tokenizer.json"))
    text = CalibrationText((book,), tokens=128, context=512)  # the model has 64 positions
    result = quantize_folder(source, tmp_path / "out", GPTQ, calibration=text, progress=False)
    assert result.calibration is not None
    assert (result.calibration["windows"], result.calibration["tokens"]) == (2, 128)
    kbit.encode(source, GPTQ, calibration=text, progress=False)
    assert kbit.encode(source, "int4:g32", output=tmp_path / "plain", calibration=text, progress=False).calibration is None


def test_what_is_missing_is_said_before_any_work(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "load_ordinary", lambda *_, **__: pytest.fail("the model was loaded"))
    source = checkpoint("llama")
    message = r"'\+imp\+gptq' needs a calibration text, and there is none"
    with pytest.raises(SchemeError, match=message):
        quantize_folder(source, tmp_path / "out", GPTQ, progress=False)
    with pytest.raises(SchemeError, match=message):
        quantize_folder(source, tmp_path / "out", Plan(Scheme.parse("int4:g32"), rules=(("mlp", Scheme.parse(GPTQ)),)), progress=False)
    with pytest.raises(SchemeError, match=message):
        kbit.encode(source, GPTQ, progress=False)
    with pytest.raises(SchemeError, match="embed_tokens: methods weigh the inputs of linear layers"):
        quantize_folder(source, tmp_path / "out", Plan(Scheme.parse("int4:g32"), embedding=Scheme.parse(GPTQ)), progress=False)
    tokens = CalibrationWindows(np.ones((1, 4), int))
    with pytest.raises(SchemeError, match="unknown arithmetic 'float16' for the calibration"):
        quantize_folder(source, tmp_path / "out", GPTQ, calibration=tokens, calibration_arithmetic="float16", progress=False)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    model = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(SchemeError, match=message):
        kbit.encode(model, GPTQ, progress=False)
    with pytest.raises(SchemeError, match="a module has no tokenizer: expected calibration=CalibrationWindows"):
        kbit.encode(model, GPTQ, calibration="text.txt", progress=False)
    with pytest.raises(ModelError, match="needs a model with a list of layers"):
        kbit.encode(model, GPTQ, calibration=CalibrationWindows(np.ones((1, 4), int)), progress=False)


def test_loading_runs_no_text(checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(SchemeError, match=r"'\+gptq' needs a calibration text"):
        AutoModelForCausalLM.from_pretrained(checkpoint("llama"), quantization_config=kbit.KbitConfig("int3:g32+gptq"))
