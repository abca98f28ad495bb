"""`encode`, `save`, `load_into` and `decode` on modules that no library knows, and what they refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import kbit
from kbit.core.errors import DTypeError, ModelError, ShapeError, StorageError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.model import load_into
from kbit.model.save import plan_of
from kbit.nn import packed_modules
from kbit.store.folder import open_model
from kbit.store.manifest import Module

PLAN = Plan(Scheme.parse("int4:g16"), embedding=Scheme.parse("int8:g16"))


class Recommender(nn.Module):
    """Tables, a convolution, layers, a buffer, and a head tied to a table."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(50, 32)
        self.users = nn.Embedding(20, 32)
        self.image = nn.Conv2d(3, 32, 4, stride=4)
        self.layers = nn.Sequential(nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 32), nn.LayerNorm(32))
        self.scores = nn.Linear(32, 50, bias=False)
        self.scores.weight = self.items.weight
        self.register_buffer("prior", torch.randn(50))

    def forward(self, items: torch.Tensor, users: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        x = self.items(items) + self.users(users) + self.image(images).mean((2, 3))
        return self.scores(self.layers(x)) + self.prior


def build(seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    return Recommender().eval()


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([4, 49]), torch.tensor([0, 19]), torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8))


def test_any_module_goes_the_whole_way(tmp_path: Path) -> None:
    model = kbit.encode(build(), PLAN, mode="exact", progress=False)
    logits = run(model)
    root = kbit.save(model, tmp_path / "model")
    with open_model(tmp_path / "model") as stored:
        assert stored.root == root
        assert stored.manifest.ties == {"scores": "items"}
        assert stored.manifest.plan == PLAN
        assert stored.manifest.modules["image"] == Module(PLAN.default, (32, 48), "conv2d")
    loaded = load_into(build(seed=1), tmp_path / "model", mode="exact")
    assert torch.equal(run(loaded), logits)
    assert loaded.scores.weight is loaded.items.weight
    decoded = kbit.decode(loaded)
    assert packed_modules(decoded) == {}
    assert type(decoded.image) is nn.Conv2d
    assert decoded.scores.weight is decoded.items.weight
    torch.testing.assert_close(run(decoded), logits, rtol=0, atol=1e-4)


def test_load_into_a_module_without_memory(tmp_path: Path) -> None:
    model = kbit.encode(build(), PLAN, progress=False)
    kbit.save(model, tmp_path / "model")
    assert torch.equal(run(load_into(build(seed=1).to("meta"), tmp_path / "model")), run(model))


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    model = kbit.encode(build(), PLAN, progress=False)
    roots = [kbit.save(model, tmp_path / "a"), kbit.save(model, tmp_path / "b", max_shard_bytes=2_000)]
    assert roots[0] == roots[1]
    with pytest.raises(StorageError, match="already there"):
        kbit.save(model, tmp_path / "a")
    assert kbit.save(model, tmp_path / "a", overwrite=True) == roots[0]


def test_plan_is_found_without_being_remembered() -> None:
    model = kbit.encode(build(), PLAN, progress=False)
    assert plan_of(model) == PLAN
    del model.kbit_plan
    plan = plan_of(model)
    assert {name: plan.scheme_for(name, "linear") for name in packed_modules(model)} == {
        name: layer.scheme for name, layer in packed_modules(model).items()
    }


def test_refuses_what_is_encoded_already() -> None:
    model = kbit.encode(build(), "int4:g16", progress=False)
    with pytest.raises(ModelError, match="already quantized"):
        kbit.encode(model, "int4:g16", progress=False)


def test_refuses_a_plan_without_effect() -> None:
    with pytest.raises(ModelError, match="encodes nothing of LayerNorm: it has no Linear"):
        kbit.encode(nn.LayerNorm(4), "int4:g16")
    with pytest.raises(ModelError, match="a model that is a single layer"):
        kbit.encode(nn.Linear(4, 4), "int4:g16")


def test_refuses_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="go with a path"):
        kbit.encode(build(), "int4:g16", output=tmp_path)
    with pytest.raises(ModelError, match="overwrite go with an output folder"):
        kbit.encode(tmp_path, "int4:g16", overwrite=True)
    with pytest.raises(ModelError, match="an output folder goes with a path"):
        kbit.decode(build(), tmp_path)
    with pytest.raises(ModelError, match="holds no packed layer"):
        kbit.save(build(), tmp_path / "model")
    with pytest.raises(DTypeError, match="expected a dtype of float32, bfloat16, float16, got 'int8'"):
        kbit.decode(build(), dtype="int8")


def test_load_into_refuses_another_module(tmp_path: Path) -> None:
    kbit.save(kbit.encode(build(), PLAN, progress=False), tmp_path / "model")
    with pytest.raises(ModelError, match="does not have"):
        load_into(nn.Sequential(nn.Linear(4, 4)), tmp_path / "model")
    other = build()
    other.register_buffer("more", torch.zeros(3))
    with pytest.raises(ModelError, match=r"missing \['more'\]"):
        load_into(other, tmp_path / "model")
    other = build()
    other.prior = torch.zeros(3)
    with pytest.raises(ShapeError, match=r"prior: expected shape \(3,\), got \(50,\)"):
        load_into(other, tmp_path / "model")


def test_load_refuses_what_is_not_packed(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a k-bit model"):
        kbit.load(checkpoint("llama"))
    with pytest.raises(ModelError, match="nothing to decode"):
        kbit.decode(checkpoint("llama"), tmp_path / "out")
    kbit.save(kbit.encode(build(), PLAN, progress=False), tmp_path / "model")
    with pytest.raises(ModelError, match=r"transformers knows no model of type None.*load_into"):
        kbit.load(tmp_path / "model")


def test_decode_folder_in_a_narrower_dtype(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    kbit.encode(checkpoint("gpt2"), PLAN, output=tmp_path / "packed", progress=False)
    kbit.decode(tmp_path / "packed", tmp_path / "wide")
    kbit.decode(tmp_path / "packed", tmp_path / "narrow", "bfloat16")
    with open_model(tmp_path / "wide") as wide, open_model(tmp_path / "narrow") as narrow:
        assert "quantization_config" not in narrow.config
        assert (wide.config["dtype"], narrow.config["dtype"]) == ("float32", "bfloat16")
        assert wide.names() == narrow.names()
        assert {narrow.entry(name).dtype for name in narrow.names()} == {"BF16"}
        name = "transformer.h.0.mlp.c_fc.weight"
        expected = torch.from_numpy(wide.array(name).copy()).bfloat16().view(torch.uint16).numpy()
        assert (narrow.array(name) == expected).all()
        assert wide.entry(name).shape == (64, 256)  # GPT-2 keeps its weights transposed
    with pytest.raises(ModelError, match="other than the source"):
        kbit.decode(tmp_path / "packed", tmp_path / "packed", overwrite=True)
