"""The whole way, for every architecture: folder → packed folder → memory → decoded folder, beside encoding in memory."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import kbit
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.model import load_into, quantize_folder
from kbit.nn import set_mode
from kbit.store.folder import open_model
from kbit.store.verify import verify

from .conftest import MODELS, build, run

PLAN = Plan(Scheme.parse("nf4:g32"), embedding=Scheme.parse("int8:g32"), head=Scheme.parse("int6:g32"))


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = build(name)
    original = run(model, name)
    result = quantize_folder(checkpoint(name), tmp_path / "packed", PLAN, progress=False)
    assert result.modules > 0
    assert verify(tmp_path / "packed").root == result.root

    # in memory: the same bytes, and the same folder
    packed = kbit.encode(copy.deepcopy(model), PLAN, mode="exact", progress=False)
    logits = run(packed, name)
    assert 0 < (logits - original).norm() < 0.4 * original.norm()
    kbit.save(packed, tmp_path / "saved")
    with open_model(tmp_path / "packed") as left, open_model(tmp_path / "saved") as right:
        assert left.manifest.modules == right.manifest.modules
        assert left.manifest.ties == right.manifest.ties
        assert set(left.names()) == set(right.names())
        assert [key for key in left.names() if left.array(key).tobytes() != right.array(key).tobytes()] == []

    # loaded: by the plug-in, and into a module of one's own
    assert torch.equal(run(kbit.load(tmp_path / "packed", mode="exact").eval(), name), logits)
    assert torch.equal(run(load_into(build(name), tmp_path / "packed", mode="exact"), name), logits)

    # decoded: to a checkpoint that transformers reads, and in memory
    kbit.decode(tmp_path / "packed", tmp_path / "decoded")
    decoded = getattr(transformers, MODELS[name][0]).from_pretrained(tmp_path / "decoded").eval()
    assert decoded.dtype == torch.float32
    assert (run(decoded, name) - logits).abs().max() <= 1e-4
    unpacked = kbit.decode(packed)
    assert type(unpacked) is type(model)
    assert {key: value.shape for key, value in unpacked.state_dict().items()} == {key: v.shape for key, v in model.state_dict().items()}
    assert torch.equal(run(unpacked, name), run(decoded, name))


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "mixtral"])
def test_bfloat16_checkpoints_in_shards(name: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(name, torch.bfloat16, "40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    quantize_folder(source, tmp_path / "packed", PLAN, max_shard_bytes=30_000, progress=False)
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) > 1
    packed = kbit.encode(source, PLAN, progress=False).eval()  # not build(name).bfloat16(): that rounds the rotary frequencies too
    logits = run(packed, name)
    assert logits.dtype == torch.bfloat16
    loaded = kbit.load(tmp_path / "packed").eval()
    assert torch.equal(run(loaded, name), logits)
    set_mode(loaded, "exact")
    assert not torch.equal(run(loaded, name), logits)
