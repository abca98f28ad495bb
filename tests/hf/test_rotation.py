"""Rotated models through the plug-in: quantize on load, save, load again, decode."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kbit
from kbit.hf import KbitConfig
from kbit.nn.swap import packed_modules, set_mode
from kbit.store.verify import verify

from .conftest import Checkpoint

CONFIG = KbitConfig("int4:g32+rotate", embedding="int8:g64+rotate", head="int6:g64+rotate", rules=[(r"v_proj", "int4:g32")], mode="exact")


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "mixtral", "t5"])
def test_save_and_load_again(checkpoint: Callable[..., Checkpoint], tmp_path: Path, kind: str) -> None:
    source = checkpoint(kind)
    model = source.load(quantization_config=CONFIG)
    schemes = {name: module.scheme.text for name, module in packed_modules(model).items()}
    straight = ("v_proj", "relative_attention_bias")  # the latter has rows of 4
    assert all(("+rotate" in text) == (not name.endswith(straight)) for name, text in schemes.items())
    logits = source.logits(model)
    assert (logits - source.logits(source.load())).norm() < 0.5 * logits.norm()
    model.save_pretrained(tmp_path / "model")
    assert verify(tmp_path / "model").ok
    again = source.load(tmp_path / "model")
    assert {name: module.scheme.text for name, module in packed_modules(again).items()} == schemes
    set_mode(again, "exact")
    assert torch.equal(source.logits(again), logits)
    decoded = kbit.decode(tmp_path / "model")
    assert not packed_modules(decoded)
    torch.testing.assert_close(source.logits(decoded.float()), logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
