"""Weights read in pieces of any size make the bytes of the whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model.weights as module
from kbit.core.errors import NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.model.recipe import make_recipe
from kbit.store.folder import open_model

from .conftest import build


@pytest.mark.parametrize("text", ["int3:g32:asym", "kmeans5:g64:e4m3", "nf7:g-1:dq8", "vq2d3:g96:mse", "nvq2d2:g64:e4m3"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "vit", "mixtral", "gpt_oss"])
def test_pieces_make_the_whole(name: str, text: str, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_WEIGHTS", 2_000)
    scheme = Scheme.parse(text)
    parameters = dict(build(name).named_parameters())
    with open_model(checkpoint(name)) as stored:
        recipe = make_recipe(stored, Plan(scheme))
        kinds = {}
        for unit in recipe.packed.values():
            kinds[unit.kind, unit.shape] = unit
        for unit in kinds.values():
            weight = parameters[unit.origin.name].detach()
            weight = (weight.transpose(-1, -2) if unit.transposed else weight).reshape(unit.shape)
            expected = encode(weight.contiguous().numpy(), scheme).parts()
            found = module.encode_unit(stored, unit).parts()
            assert {part: array.tobytes() for part, array in found.items()} == {part: array.tobytes() for part, array in expected.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_checkpoints(dtype: torch.dtype, checkpoint: Callable[..., Path]) -> None:
    with open_model(checkpoint("llama", dtype)) as stored:
        unit = make_recipe(stored, Plan(Scheme.parse("int8:g32"))).packed["model.layers.0.mlp.up_proj"]
        found = module.encode_unit(stored, unit)
    weight = build("llama").model.layers[0].mlp.up_proj.weight.detach().to(dtype).float().numpy()
    assert found.weight.tobytes() == encode(weight, unit.scheme).weight.tobytes()


def test_plain_pieces_cover_a_tensor(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_WEIGHTS", 1_000)
    with open_model(checkpoint("llama", torch.bfloat16)) as stored:
        origin = make_recipe(stored, Plan(Scheme.parse("int8:g32"))).plain["model.embed_tokens.weight"]
        pieces = list(module.plain_pieces(stored, origin))
        assert [begin for begin, _ in pieces] == list(range(0, 96, 15))
        assert np.array_equal(np.concatenate([rows for _, rows in pieces]), stored.array(origin.name))


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weight = torch.zeros(16, 32, dtype=torch.float64)
    weight[2, 3] = 1e300
    save_file({"layer.weight": weight}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with open_model(tmp_path) as stored:
        unit = make_recipe(stored, Plan(Scheme.parse("int8:g32"))).packed["layer"]
        with pytest.raises(NumericsError, match=r"layer\.weight.*\[2, 3\]"):
            module.encode_unit(stored, unit)
