"""Changed models against what they were: the same function, in every family; and folds that are slightly wrong, which must show."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.models import answer, difference, text
from torch import nn

from kbit.core.errors import NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.folding import choose, find
from kbit.folding.changes import Change
from kbit.model.folded import fold_module
from kbit.nn.targets import find_targets

from .conftest import CASES, build

ROTATED = Scheme.parse("int4:g16+rotate")
#: what a fold misses when it is wrong is far above
TOLERANCE = 2e-5
OUTPUTS = ("self_attn.o_proj", "out_proj", "attn.c_proj", "self_attn.dense", "attention.dense", "attention.output.dense")
READERS = ("q_proj", "gate_proj", "query_key_value", "c_attn", "query", "gate_up_proj", "qkv_proj")
DOWN = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2")


def folded(model: nn.Module, plan: Plan | None = None) -> dict[str, str]:
    """Fold in place; name → method of those that were to be rotated."""
    targets, _ = find_targets(model, (plan or Plan(ROTATED)).scheme_for)
    return {target.name: "+".join(target.scheme.methods) for target in fold_module(model, targets, "all")}


def methods_of(methods: dict[str, str], endings: tuple[str, ...]) -> set[str]:
    return {method for place, method in methods.items() if place.endswith(endings)}


@pytest.mark.parametrize("name", CASES)
def test_the_changed_model_computes_the_same(name: str) -> None:
    model, case = build(name), CASES[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = answer(model, text(30, seed=1))
    methods = folded(model)
    assert difference(answer(model, text(30, seed=1)), expected) < TOLERANCE
    assert methods_of(methods, OUTPUTS) == {"folded" if case.values else "rotate"}
    straight = name == "llama_width40"  # rows of 40 cannot be rotated, so nobody asks for it
    assert methods_of(methods, READERS) == {"" if straight else "folded" if case.stream else "rotate"}
    assert "folded" not in methods_of(methods, DOWN)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert bool(changed) == (case.values or case.stream)
    assert any("norm" in key for key in changed) == case.stream


def forgotten(members: dict[str, find.Member], ending: str) -> dict[str, find.Member]:
    assert any(name.endswith(ending) for name in members)
    return {name: replace(member, change=Change()) if name.endswith(ending) else member for name, member in members.items()}


def shift(members: dict[str, find.Member], ending: str) -> dict[str, find.Member]:
    def moved(member: find.Member) -> find.Member:
        rows = tuple(replace(heads, begins=tuple(begin + 1 for begin in heads.begins[:-1])) for heads in member.change.rows)
        return replace(member, change=replace(member.change, rows=rows))

    return {name: moved(member) if name.endswith(ending) else member for name, member in members.items()}


def ungained(members: dict[str, find.Member], ending: str) -> dict[str, find.Member]:
    assert any(name.endswith(ending) and member.change.gain for name, member in members.items())
    return {
        name: replace(member, change=replace(member.change, gain=None)) if name.endswith(ending) else member
        for name, member in members.items()
    }


@pytest.mark.parametrize(
    ("name", "kind", "wrong", "ending"),
    [
        ("qwen2", "values", forgotten, "v_proj.bias"),
        ("gpt2", "values", forgotten, "c_attn.bias"),
        ("neox", "values", shift, "query_key_value.weight"),
        ("phi3", "values", shift, "qkv_proj.weight"),
        ("llama_head80", "values", forgotten, "o_proj.weight"),
        ("llama_head48_biased", "stream", forgotten, "o_proj.bias"),
        ("llama_head48_biased", "stream", forgotten, "down_proj.bias"),
        ("llama", "stream", forgotten, "embed_tokens.weight"),
        ("llama", "stream", forgotten, "lm_head.weight"),
        ("llama", "stream", ungained, "k_proj.weight"),
        ("gemma_untied", "stream", ungained, "lm_head.weight"),
        ("mixtral", "stream", forgotten, "gate.weight"),
        ("mixtral", "stream", forgotten, "experts.down_proj"),
        ("qwen3_moe", "stream", ungained, "experts.gate_up_proj"),
    ],
)
def test_a_wrong_fold_shows(name: str, kind: str, wrong: object, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    expected = answer(model, text(30, seed=1))
    right = find.find_folds

    def spoiled(architecture: object) -> list[find.Fold]:
        folds = right(architecture)
        return [replace(fold, members=wrong(dict(fold.members), ending), width=0) if fold.kind == kind else fold for fold in folds]

    monkeypatch.setattr(choose, "find_folds", spoiled)
    folded(model)
    assert difference(answer(model, text(30, seed=1)), expected) > 100 * TOLERANCE


def changed_by(name: str, plan: Plan) -> dict[str, str]:
    model = build(name)
    expected = answer(model, text(12, seed=2))
    methods = folded(model, plan)
    assert difference(answer(model, text(12, seed=2)), expected) < TOLERANCE
    return methods


def test_weights_that_do_not_ask_for_it_stop_a_fold() -> None:
    plain, eight = Scheme.parse("int4:g16"), Scheme.parse("int8:g16")
    for rule in ("0.self_attn.q_proj", "1.mlp.down_proj"):
        methods = changed_by("llama", Plan(ROTATED, rules=((rule, plain),)))
        assert {method for place, method in methods.items() if place.endswith("gate_proj")} == {"rotate"}
        assert {method for place, method in methods.items() if place.endswith("o_proj")} == {"folded"}
    methods = changed_by("llama", Plan(ROTATED, rules=(("0.self_attn.v_proj", plain),)))
    assert [method for place, method in methods.items() if place.endswith("o_proj")] == ["rotate", "folded"]
    methods = changed_by("llama", Plan(ROTATED, embedding=eight))
    assert methods["model.embed_tokens"] == ""
    assert methods["model.layers.0.mlp.up_proj"] == "rotate"


def test_weights_in_16_bits_and_embeddings_go_along() -> None:
    eight = Scheme.parse("int8:g16+rotate+imp")
    methods = changed_by("llama", Plan(ROTATED, skip=("0.self_attn", "1.mlp.down"), head=eight, embedding=Scheme.parse("int8:g16+rotate")))
    assert methods["lm_head"] == "folded+imp"
    assert methods["model.embed_tokens"] == "folded"
    assert methods["model.layers.1.self_attn.o_proj"] == "folded"
    assert methods["model.layers.0.mlp.down_proj"] == "rotate"


def test_what_the_architecture_does_not_speak_of_stops_the_stream() -> None:
    for shape, expected in (((5, 48), "rotate"), ((5, 7), "folded")):
        model = build("llama")
        model.register_parameter("probe", nn.Parameter(torch.zeros(shape)))
        assert folded(model)["model.layers.0.self_attn.q_proj"] == expected
    model = build("llama")
    model.lm_head.weight = model.model.embed_tokens.weight  # tied without a word in the configuration
    assert folded(model)["model.layers.0.self_attn.q_proj"] == "rotate"
    model = build("llama")
    model.model.layers[1].self_attn.v_proj.weight = model.model.layers[0].self_attn.v_proj.weight
    assert "folded" not in folded(model).values()


def test_nothing_is_changed_without_a_word() -> None:
    model = build("llama")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    targets, _ = find_targets(model, Plan(Scheme.parse("int4:g16")).scheme_for)
    assert fold_module(model, targets, "all") == targets
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    module = nn.Sequential(nn.Linear(32, 32))  # of no architecture
    targets, _ = find_targets(module, Plan(ROTATED).scheme_for)
    assert fold_module(module, targets, "all") == targets


def test_what_is_not_finite_is_refused_by_its_place() -> None:
    model = build("llama")
    before = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[3, 5] = float("nan")
    with pytest.raises(NumericsError, match=r"1.self_attn.v_proj.weight: expected finite weights, got nan at \[3, 5\]"):
        folded(model)
    assert torch.equal(model.model.norm.weight, before)
    assert np.isfinite(before.numpy()).all()
