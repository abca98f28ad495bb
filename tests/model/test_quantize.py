"""`quantize_folder`: accounting, refusals, names without an architecture, memory, and kills at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.core.errors import KbitError, ModelError, NumericsError, ResumeMismatch, StorageError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.core.sizes import bytes_text
from kbit.model import quantize_folder
from kbit.store.folder import open_model
from kbit.store.manifest import Module

INT4 = Plan(Scheme.parse("int4:g32"))
Checkpoint = Callable[..., Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def source(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return Path(shutil.copytree(checkpoint("llama_tied"), tmp_path / "source"))


@pytest.mark.parametrize("text", ["int4:g32:asym", "kmeans3:g64:e4m3", "nf5:g-1:dq8"])
def test_every_bit_is_accounted_for(checkpoint: Checkpoint, tmp_path: Path, text: str) -> None:
    scheme = Scheme.parse(text)
    result = quantize_folder(checkpoint("llama"), tmp_path / "out", Plan(scheme, embedding=scheme), progress=False)
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert result.file_bytes == sum(path.stat().st_size for path in files)
    assert sum(result.parts.values()) == 8 * result.file_bytes
    assert result.bpw_file == pytest.approx(8 * result.file_bytes / result.parameters)
    with open_model(tmp_path / "out") as stored:
        packed = [stored.quantized(name) for name in stored.manifest.modules]
    weights = sum(int(np.prod(tensor.shape)) for tensor in packed)
    assert (result.quantized_weights, result.modules) == (weights, len(packed))
    assert result.bpw == pytest.approx(sum(8 * tensor.size_bytes for tensor in packed) / weights)
    assert result.parts["codes"] == scheme.bits * weights
    for part, key in (("scales", "scales"), ("zero_points", "zero_points"), ("codebooks", "codebook"), ("padding", "padding")):
        expected = sum(tensor.bits_breakdown()[key] * float(np.prod(tensor.shape)) for tensor in packed)
        assert result.parts[part] == pytest.approx(expected), part
    assert result.peak_rss_bytes > 0
    assert json.loads(json.dumps(result.to_json()))["scheme"] == scheme.text


def test_configuration_and_side_files(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text('{"model": {}}')
    (source / "model.bin.txt").write_text("not ours")
    result = quantize_folder(source, tmp_path / "out", INT4, progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "kbit", "version": 1, **INT4.to_json()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert [kept.name for kept in result.kept] == ["model.embed_tokens", "lm_head"]
    assert result.notes == ()


def test_skip_rules_and_ties(source: Path, tmp_path: Path) -> None:
    plan = Plan(
        Scheme.parse("int4:g32"),
        embedding=Scheme.parse("int8:g32"),
        rules=((r"mlp\.down_proj$", Scheme.parse("nf2:g16")),),
        skip=(r"layers\.0\.self_attn",),
    )
    quantize_folder(source, tmp_path / "out", plan, progress=False)
    with open_model(tmp_path / "out") as stored:
        modules = stored.manifest.modules
        assert modules["model.embed_tokens"] == Module(Scheme.parse("int8:g32"), (96, 64), "embedding")
        assert stored.manifest.ties == {"lm_head": "model.embed_tokens"}
        assert modules["model.layers.1.mlp.down_proj"].scheme.text == "nf2:g16"
        assert "model.layers.0.self_attn.q_proj" not in modules
        assert "model.layers.1.self_attn.q_proj" in modules
        assert "model.layers.0.self_attn.q_proj.weight" in stored.plain_names()
        assert not any(name.startswith("lm_head") for name in stored.names())


@pytest.mark.parametrize("known", [True, False])
def test_a_group_that_outreaches_the_row_is_stored_as_one_scale_a_row(source: Path, tmp_path: Path, known: bool) -> None:
    if not known:  # layers are then told by the names of their weights
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"model_type": "nobody's"}))
    wide, narrow = quantize_folder(source, tmp_path / "a", "nf4:g80"), quantize_folder(source, tmp_path / "b", "nf4:g-1")
    with open_model(tmp_path / "a") as stored, open_model(tmp_path / "b") as per_row:
        schemes = {name.rpartition(".")[2]: module.scheme.text for name, module in stored.manifest.modules.items()}
        assert stored.manifest.plan == Plan.of("nf4:g80")
        name = "model.layers.0.mlp.up_proj.weight_scale"
        assert stored.array(name).tolist() == per_row.array(name).tolist()
    assert schemes.pop("down_proj") == "nf4:g80"  # 80 columns; the others have 64
    assert set(schemes.values()) == {"nf4:g-1"}
    words = "12 weights have rows shorter than their scheme's group and get one scale a row (g-1), first model.layers.0."
    assert any(note.startswith(words) for note in wide.notes)
    assert not any("shorter" in note for note in narrow.notes)


def test_rows_that_cannot_be_rotated_are_stored_as_they_are(tmp_path: Path) -> None:
    weights = {"model.layers.0.up_proj.weight": torch.randn(20, 40), "model.layers.0.down_proj.weight": torch.randn(20, 48)}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"model_type": "nobody\'s"}')
    save_file(weights, tmp_path / "source" / "model.safetensors")
    result = quantize_folder(tmp_path / "source", tmp_path / "out", "int8:g16+rotate", progress=False)
    words = "1 weights have rows that are no multiple of 16 long and are encoded without rotate, first model.layers.0.up_proj"
    assert words in result.notes
    with open_model(tmp_path / "out") as stored:
        schemes = {name: module.scheme.text for name, module in stored.manifest.modules.items()}
        assert schemes == {"model.layers.0.up_proj": "int8:g16", "model.layers.0.down_proj": "int8:g16+rotate"}
        for name in schemes:
            np.testing.assert_allclose(stored.quantized(name).dequantize(), weights[f"{name}.weight"].numpy(), atol=0.03)


def test_duplicate_of_a_tied_weight_is_stored_once(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors")
    for embedding in ("16", "int8:g32"):
        out = tmp_path / f"out-{embedding[:2]}"
        quantize_folder(source, out, Plan(INT4.default, embedding=Scheme.parse(embedding)), progress=False)
        with open_model(out) as stored:
            assert not any(name.startswith("lm_head") for name in stored.names())
    weights["lm_head.weight"] += 1
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ModelError, match=r"config.json ties 'lm_head.weight' to 'model.embed_tokens.weight', but .* different values"):
        quantize_folder(source, tmp_path / "out", INT4, progress=False)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("scheme", ["int4:g32", "kmeans4:g32"])
def test_refuses_what_is_not_finite(source: Path, tmp_path: Path, bad: float, scheme: str) -> None:
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][70, 9] = bad
    save_file(weights, source / "model.safetensors")
    with pytest.raises(NumericsError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*\[70, 9\]"):
        quantize_folder(source, tmp_path / "out", scheme, progress=False)
    assert not (tmp_path / "out").exists()


def test_refuses_source_as_destination(source: Path, tmp_path: Path) -> None:
    before = tree(source)
    (tmp_path / "link").symlink_to(source)
    for destination in (source, tmp_path / "link", source / ".." / "source"):
        with pytest.raises(ModelError, match="other than the source"):
            quantize_folder(source, destination, INT4, overwrite=True, progress=False)
    assert tree(source) == before


def test_refuses_a_quantized_source(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "out", INT4, progress=False)
    with pytest.raises(ModelError, match=r"already quantized \(kbit\)"):
        quantize_folder(tmp_path / "out", tmp_path / "again", INT4, progress=False)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ModelError, match=r"already quantized \(gptq\)"):
        quantize_folder(source, tmp_path / "again", INT4, progress=False)


def test_destination_is_left_unless_told(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "out", INT4, progress=False)
    before = tree(tmp_path / "out")
    with pytest.raises(StorageError, match="already there"):
        quantize_folder(source, tmp_path / "out", "nf3:g32", progress=False)
    assert tree(tmp_path / "out") == before
    quantize_folder(source, tmp_path / "out", "nf3:g32", overwrite=True, progress=False)
    assert tree(tmp_path / "out") != before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_nothing_to_encode(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the plan encodes none of its"):
        quantize_folder(source, tmp_path / "out", Plan(INT4.default, skip=("",)), progress=False)
    assert not (tmp_path / "out").exists()


def test_threads_do_not_change_a_byte(source: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        quantize_folder(source, tmp_path / str(threads), "nf4:g32:mse", threads=threads, progress=False)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_without_an_architecture_names_and_shapes_decide(source: Path, tmp_path: Path) -> None:
    (source / "config.json").write_text(json.dumps({"model_type": "of-my-own"}))
    result = quantize_folder(source, tmp_path / "out", Plan(INT4.default, embedding=Scheme.parse("int8:g32")), progress=False)
    assert "no architecture known here" in result.notes[0]
    with open_model(tmp_path / "out") as stored:
        modules = stored.manifest.modules
    assert (modules["model.embed_tokens"].kind, modules["model.embed_tokens"].scheme.text) == ("embedding", "int8:g32")
    assert modules["model.layers.0.mlp.up_proj"].kind == "linear"
    assert "model.norm" not in modules


def test_estimate_is_printed_before_the_work(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = quantize_folder(source, tmp_path / "out", INT4, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        f"quantize: memory estimate {bytes_text(result.estimate_bytes)}, for a model of {bytes_text(result.source_bytes)}\n"
    )
    assert "100%" in err


# ---- kills

DRIVER = """
import json, sys
from kbit.model import quantize_folder
from kbit.model.architecture import build_skeleton
build_skeleton(json.load(open(sys.argv[1] + "/config.json")))  # its imports, so that kills fall into the work
print("ready", flush=True)
quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], max_shard_bytes=200_000, progress=False)
"""


def quantize_and_kill(source: Path, destination: Path, scheme: str, seconds: float) -> bool:
    """Run in a process that is killed so long after its start; True if it had finished."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER, source, destination, scheme], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait() == 0


def test_killed_and_resumed_ends_with_the_same_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, scheme = checkpoint("mixtral"), "nf4:g32"
    started = time.monotonic()
    quantize_folder(source, tmp_path / "whole", scheme, max_shard_bytes=200_000, progress=False)
    whole_seconds = time.monotonic() - started
    draw = random.Random(8)
    for _ in range(3):
        quantize_and_kill(source, tmp_path / "killed", scheme, draw.uniform(0, whole_seconds))
    quantize_folder(source, tmp_path / "killed", scheme, max_shard_bytes=200_000, overwrite=True, progress=False)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}


class StopError(Exception):
    """What stands for a kill between two tensors."""


@pytest.fixture
def unfinished(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A destination whose work stopped after five tensors."""
    import kbit.model.quantize as module

    encode_unit, done = module.encode_unit, []

    def stopping(*args: object, **kwargs: object) -> object:
        done.append(1)
        if len(done) > 5:
            raise StopError
        return encode_unit(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_unit", stopping)
        with pytest.raises(StopError):
            quantize_folder(source, tmp_path / "out", INT4, progress=False)
    assert not (tmp_path / "out").exists()
    return tmp_path / "out"


def test_resume_goes_on_where_it_stopped(source: Path, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kbit.model.quantize as module

    encode_unit, encoded = module.encode_unit, []

    def counting(stored: object, unit: object, **kwargs: object) -> object:
        encoded.append(unit)
        return encode_unit(stored, unit, **kwargs)

    monkeypatch.setattr(module, "encode_unit", counting)
    result = quantize_folder(source, unfinished, INT4, progress=False)
    assert len(encoded) == result.modules - 5
    quantize_folder(source, tmp_path / "whole", INT4, progress=False)
    assert tree(unfinished) == tree(tmp_path / "whole")


def change_plan(source: Path) -> Plan:
    return Plan(Scheme.parse("int5:g32"))


def change_weights(source: Path) -> Plan:
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    return INT4


def change_config(source: Path) -> Plan:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    return INT4


@pytest.mark.parametrize("change", [change_plan, change_weights, change_config])
def test_resume_refuses_other_work(source: Path, unfinished: Path, change: Callable[[Path], Plan]) -> None:
    plan = change(source)
    with pytest.raises(ResumeMismatch, match="of another run"):
        quantize_folder(source, unfinished, plan, progress=False)
    quantize_folder(source, unfinished, plan, resume=False, progress=False)
    assert (unfinished / "config.json").exists()


# ---- memory

MEMORY_DRIVER = """
import sys
import transformers.models.llama.modeling_llama
from kbit.model import quantize_folder
from kbit.core.memory import peak_rss_bytes, rss_bytes
before = rss_bytes()
result = quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], progress=False)
print(before, peak_rss_bytes(), result.estimate_bytes, result.source_bytes)
"""


def test_memory_stays_far_below_the_model(tmp_path: Path) -> None:
    """192 MB of float32 in one embedding of 64 MB and eight matrices of 16 MB: the peak is a few pieces, not the model."""
    source = tmp_path / "source"
    source.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "hidden_size": 2048, "tie_word_embeddings": True,
        "intermediate_size": 2048, "num_hidden_layers": 1, "num_attention_heads": 16, "num_key_value_heads": 16,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    weights = {f"model.layers.0.{name}.weight": torch.full((2048, 2048), 0.5) for name in names}
    weights["model.embed_tokens.weight"] = torch.full((8192, 2048), 0.5)
    save_file(weights, source / "model.safetensors")
    weights.clear()
    arguments = [sys.executable, "-c", MEMORY_DRIVER, source, tmp_path / "out", "int4:g64"]
    before, peak, estimate, size = map(int, subprocess.run(arguments, check=True, capture_output=True, env=os.environ).stdout.split())
    assert size > 180_000_000
    assert peak - before < size / 2
    assert peak <= 1.1 * estimate


CALIBRATED_DRIVER = """
import sys
import numpy as np
import transformers.models.llama.modeling_llama
from kbit.calibrate import CalibrationWindows
from kbit.core.memory import peak_rss_bytes, rss_bytes
from kbit.model import quantize_folder
before = rss_bytes()
ids = np.random.default_rng(0).integers(0, 8192, (8, 256))
result = quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], calibration=CalibrationWindows(ids), progress=False)
print(before, peak_rss_bytes(), result.estimate_bytes, result.source_bytes)
"""


@pytest.mark.parametrize("scheme", ["int4:g64+imp", "int4:g64+gptq"])
def test_memory_of_a_calibration_is_foretold(scheme: str, tmp_path: Path) -> None:
    """Twelve layers of 8 MB in bfloat16: what one layer takes does not add up over them."""
    source, hidden, width = tmp_path / "source", 512, 2048
    source.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "hidden_size": hidden,
        "intermediate_size": width, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8, "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    shapes = {f"self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
    shapes |= {"mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden), "mlp.down_proj": (hidden, width)}
    draw = torch.Generator().manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(8192, hidden, generator=draw), "model.norm.weight": torch.ones(hidden)}
    for layer in range(12):
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape, generator=draw) / 30
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(hidden)
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, source / "model.safetensors")
    arguments = [sys.executable, "-c", CALIBRATED_DRIVER, source, tmp_path / "out", scheme]
    before, peak, estimate, size = map(int, subprocess.run(arguments, check=True, capture_output=True, env=os.environ).stdout.split())
    assert size > 100_000_000
    assert peak <= 1.05 * estimate
    assert estimate - before < 4 * size


def test_errors_are_kbits_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(KbitError):
            quantize_folder(source, tmp_path / "out", INT4, progress=False)
