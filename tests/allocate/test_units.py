"""Units: which weights are free, what they take, and the plan that a choice makes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.allocate.units import Unit, find_units, plan_of, stored_bytes
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme
from kbit.encoders.nearest import encode
from kbit.store.folder import open_model

INT8 = Scheme.parse("int8:g32")


def test_the_linear_weights_are_free_and_the_rest_is_not_there(make_units: Callable[..., list[Unit]]) -> None:
    units = make_units()
    assert len(units) == 14
    assert all(unit.free and unit.kind == "linear" and len(unit.schemes) == 3 for unit in units)


def test_sizes_are_those_of_encoded_weights(make_units: Callable[..., list[Unit]]) -> None:
    import numpy as np

    for unit in make_units()[:7]:
        for scheme, size in zip(unit.schemes, unit.sizes, strict=True):
            plain = Scheme.parse(scheme.text.partition("+")[0])
            assert size == encode(np.ones(unit.shape, np.float32), plain).size_bytes
    assert stored_bytes(KEEP, (3, 5)) == 30


def test_rules_bind_and_skips_leave_out(make_units: Callable[..., list[Unit]]) -> None:
    base = Plan(Scheme.parse("int4"), rules=(("down_proj", INT8),), skip=("layers[.]1[.].*q_proj",))
    units = {unit.name: unit for unit in make_units(base)}
    assert "model.layers.1.self_attn.q_proj" not in units
    bound = units["model.layers.0.mlp.down_proj"]
    assert not bound.free
    assert bound.schemes == (INT8,)


def test_embedding_and_head_take_part_when_asked(make_units: Callable[..., list[Unit]]) -> None:
    units = {unit.name: unit for unit in make_units(free=("default", "embedding", "head"))}
    assert [scheme.text for scheme in units["model.embed_tokens"].schemes] == ["int4:g32:mse", "int8:g32:mse"]
    assert len(units["lm_head"].schemes) == 3


def test_the_plan_gives_every_module_what_was_chosen(make_units: Callable[..., list[Unit]]) -> None:
    free = ("default", "embedding", "head")
    base = Plan(Scheme.parse("int4"), rules=(("up_proj", INT8),))
    units = make_units(base, free)
    chosen = {unit.name: unit.schemes[index % len(unit.schemes)] for index, unit in enumerate(units) if unit.free}
    plan = plan_of(units, chosen, base, free)
    for unit in units:
        assert plan.scheme_for(unit.name, unit.kind) == (chosen[unit.name] if unit.free else INT8)
    assert plan == Plan.from_json(plan.to_json())


def test_a_name_is_no_pattern(make_units: Callable[..., list[Unit]]) -> None:
    units = [Unit("a.b", "linear", (16, 32), (INT8,), (1,), free=True), Unit("axb", "linear", (99, 32), (KEEP,), (1,), free=True)]
    plan = plan_of(units, {"a.b": INT8, "axb": KEEP}, Plan(INT8), ("default",))
    assert plan.scheme_for("a.b", "linear") == INT8
    assert plan.scheme_for("axb", "linear") == KEEP


def test_refuses_what_leaves_nothing_open(model_folder: Path) -> None:
    with open_model(model_folder) as stored:
        with pytest.raises(SchemeError, match="default, embedding, head"):
            find_units(stored, Plan(INT8), ("defualt",), lambda _: (INT8,))
        with pytest.raises(SchemeError, match="left open"):
            find_units(stored, Plan(INT8, rules=(("proj", INT8),)), ("default",), lambda _: (INT8,))
