"""Skeletons without memory, and the way from checkpoint names to parameters."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from kbit.core.errors import DTypeError, ModelError
from kbit.model.architecture import build_skeleton, find_origins, model_class, read_tensor
from kbit.store.folder import open_model

from .conftest import MODELS, build


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_its_origin(name: str, checkpoint: Callable[..., Path]) -> None:
    model = build(name)
    with open_model(checkpoint(name)) as stored:
        skeleton = build_skeleton(stored.config)
        assert all(parameter.is_meta for parameter in skeleton.parameters())
        origins = {origin.name: origin for origin in find_origins(stored, skeleton)}
        expected = dict(model.named_parameters())
        assert expected.keys() <= origins.keys()
        for parameter, value in expected.items():
            assert origins[parameter].shape == tuple(value.shape)
            assert torch.equal(read_tensor(stored, origins[parameter]), value)
        assert {key for origin in origins.values() for key in origin.keys} == set(stored.names())


def test_class_comes_from_the_configuration() -> None:
    assert model_class({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}) is transformers.LlamaForCausalLM
    assert model_class({"model_type": "llama"}) is transformers.AutoModel
    # a name that is no model's is not called, whatever it is
    assert model_class({"model_type": "llama", "architectures": ["pipeline"]}) is transformers.AutoModel
    assert model_class({"model_type": "unheard-of", "architectures": ["LlamaForCausalLM"]}) is None
    assert model_class({}) is None


def test_wrong_configuration_is_a_typed_error() -> None:
    with pytest.raises(ModelError, match=r"cannot build 'llama' from its config\.json"):
        build_skeleton({"model_type": "llama", "hidden_size": "many"})


def test_fused_tensors_share_a_dtype(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = checkpoint("mixtral")
    weights = load_file(source / "model.safetensors")
    name = next(name for name in weights if name.endswith("experts.2.w1.weight"))
    weights[name] = weights[name].bfloat16()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text())))
    with open_model(tmp_path) as stored, pytest.raises(DTypeError, match="tensors of one float dtype, got BF16, F32"):
        find_origins(stored, build_skeleton(stored.config))
