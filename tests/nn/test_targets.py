"""Which layers are found, what they are, which are one weight, and why some are left alone."""

import pytest
import torch
from torch import nn

from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme
from kbit.nn import KbitEmbedding, KbitLinear, find_targets, swap
from kbit.nn.targets import packed_kind

PLAN = Plan(Scheme.parse("int4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int6:g16"))


class Language(nn.Module):
    """Embedding, a layer, a head."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.lm_head = nn.Linear(32, 48, bias=False)
        self.block = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32))
        self.embed = nn.Embedding(48, 32)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.block(self.embed(ids)))


def test_kinds_and_schemes() -> None:
    targets, kept = find_targets(Language(tied=False), PLAN.scheme_for)
    assert {target.name: (target.kind, target.scheme.text) for target in targets} == {
        "lm_head": ("head", "int6:g16"),
        "block.0": ("linear", "int4:g16"),
        "embed": ("embedding", "int8:g16"),
    }
    assert kept == []


def test_a_group_that_outreaches_the_row_becomes_one_scale_a_row() -> None:
    model = Language(tied=False)
    targets, _ = find_targets(model, Plan(Scheme.parse("int4:g32"), Scheme.parse("nf4:g64"), Scheme.parse("int8:g128:asym")).scheme_for)
    assert {target.name: target.scheme.text for target in targets} == {
        "lm_head": "int8:g-1:asym",
        "block.0": "int4:g32",
        "embed": "nf4:g-1",
    }
    swap(model, "nf4:g64")
    assert model.block[0].scheme == model.block[0].quantized.scheme == Scheme.parse("nf4:g-1")
    assert KbitLinear(48, 20, Scheme.parse("nf4:g64")).scheme == Scheme.parse("nf4:g-1")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_head_follows_the_embedding(device: str) -> None:
    with torch.device(device):
        model = Language(tied=True)
    targets, _ = find_targets(model, PLAN.scheme_for)
    tied = next(target for target in targets if len(target.places) > 1)
    assert (tied.name, tied.kind, tied.places, tied.scheme.text) == ("embed", "embedding", ("embed", "lm_head"), "int8:g16")


def test_output_embeddings_are_a_head_whatever_their_name() -> None:
    model = Language(tied=False)
    model.get_output_embeddings = lambda: model.block[0]
    targets, _ = find_targets(model, PLAN.scheme_for)
    assert {target.name: target.kind for target in targets}["block.0"] == "head"


def test_skip_and_rules() -> None:
    plan = Plan(Scheme.parse("int4:g16"), rules=((r"block\.0$", Scheme.parse("nf3:g32")),), skip=("lm_head",))
    targets, kept = find_targets(Language(tied=False), plan.scheme_for)
    assert [(target.name, target.scheme.text) for target in targets] == [("block.0", "nf3:g32")]
    assert {(layer.name, layer.reason) for layer in kept} == {
        ("lm_head", "the plan keeps it in 16 bits"),
        ("embed", "the plan keeps it in 16 bits"),
    }


def test_views_of_one_memory_are_tied() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    model[1].weight = nn.Parameter(model[0].weight.detach())
    (target,), _ = find_targets(model, PLAN.scheme_for)
    assert target.places == ("0", "1")


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Holder(nn.Module):
    """Uses the weight of a layer as a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)
        self.table = self.layer.weight


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(Scaled(16, 16)), "Scaled has a forward of its own"),
        (nn.Sequential(nn.Embedding(4, 16, max_norm=1.0)), "max_norm rewrites rows as they are read"),
        (nn.Sequential(nn.Linear(16, 16, dtype=torch.complex64)), r"its weight is torch\.complex64"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))), None),
        (nn.MultiheadAttention(16, 2), "nn.MultiheadAttention reads its weight directly"),
        (nn.Linear(16, 16), "a model that is a single layer"),
        (Holder(), "its weight is also 'table'"),
    ],
)
def test_obstacles(model: nn.Module, reason: str | None) -> None:
    targets, kept = find_targets(model, Plan(PLAN.default, PLAN.default, PLAN.default).scheme_for)
    assert targets == []
    if reason is None:
        assert kept == []
    else:
        assert len(kept) == 1
        assert kept[0].reason.startswith(reason.replace("\\", ""))


def test_packed_layers_are_no_targets_and_know_their_kind() -> None:
    model = Language(tied=False)
    swap(model, PLAN)
    assert find_targets(model, PLAN.scheme_for) == ([], [])
    assert isinstance(model.lm_head, KbitLinear)
    assert isinstance(model.embed, KbitEmbedding)
    assert [packed_kind(model, layer) for layer in (model.lm_head, model.embed, model.block[0])] == ["head", "embedding", "linear"]


def test_kept_scheme_everywhere() -> None:
    targets, kept = find_targets(Language(tied=True), lambda name, kind: KEEP)
    assert targets == []
    assert len(kept) == 3
