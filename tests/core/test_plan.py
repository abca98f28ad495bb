import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme

from .strategies import schemes

MANY = settings(deadline=None, max_examples=60)
NF4, INT8, LOG3 = Scheme("nf", 4), Scheme("int", 8), Scheme("log", 3)


@st.composite
def plans(draw):
    patterns = st.sampled_from([r"layers\.0\.", "mlp", "^lm_head$", "(q|k)_proj", ""])
    rules = draw(st.lists(st.tuples(patterns, schemes()), max_size=3))
    return Plan(draw(schemes()), draw(schemes()), draw(schemes()), tuple(rules), tuple(draw(st.lists(patterns, max_size=2))))


@MANY
@given(plans())
def test_json_gives_the_plan_back(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert hash(Plan.from_json(plan.to_json())) == hash(plan)


def test_a_plan_of_anything_that_names_a_scheme():
    plan = Plan(NF4, INT8)
    assert Plan.of(plan) is plan
    assert Plan.of(NF4) == Plan.of("nf4:g64") == Plan(NF4, KEEP, KEEP)
    with pytest.raises(SchemeError, match="a scheme is a text such as 'nf4:g64', got int"):
        Plan.of(4)


def test_the_first_that_matches_decides():
    plan = Plan(
        default=NF4,
        embedding=INT8,
        head=LOG3,
        rules=((r"\.0\.", INT8), (r"mlp", LOG3), (r"norm_embed", NF4)),
        skip=(r"\.9\.", "router"),
    )
    cases = [
        ("layers.1.attention", "linear", NF4),
        ("layers.0.attention", "linear", INT8),  # a rule before the default
        ("layers.1.mlp.up", "linear", LOG3),
        ("layers.0.mlp.up", "linear", INT8),  # the first of two rules
        ("layers.9.mlp.up", "linear", KEEP),  # skip before rules
        ("layers.1.mlp.router", "linear", KEEP),
        ("tokens", "embedding", INT8),
        ("norm_embed", "embedding", NF4),  # a rule before the kind
        ("router", "embedding", KEEP),  # skip before the kind
        ("lm_head", "head", LOG3),
        ("mlp_head", "head", LOG3),
        ("layers.1.conv", "conv1d", NF4),
        ("layers.1.conv", "conv2d", NF4),
        ("layers.1.experts", "experts", NF4),
    ]
    assert [(name, kind, plan.scheme_for(name, kind)) for name, kind, _ in cases] == cases


@given(st.sampled_from(["linear", "embedding", "head", "conv1d", "conv2d", "experts"]), st.text())
def test_a_plain_plan_goes_by_kind(kind, name):
    expected = {"embedding": INT8, "head": LOG3}.get(kind, NF4)
    assert Plan(NF4, INT8, LOG3).scheme_for(name, kind) == expected


def test_with_default_keeps_the_rest():
    plan = Plan(NF4, INT8, LOG3, (("a", INT8),), ("b",))
    assert plan.with_default(INT8) == Plan(INT8, INT8, LOG3, (("a", INT8),), ("b",))
    assert plan.default == NF4


def test_lists_become_tuples_so_that_a_plan_can_be_hashed():
    assert Plan(NF4, rules=[["a", INT8]], skip=["b"]) == Plan(NF4, rules=(("a", INT8),), skip=("b",))
    assert hash(Plan(NF4, rules=[["a", INT8]], skip=["b"])) == hash(Plan(NF4, rules=(("a", INT8),), skip=("b",)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"default": "nf4"}, "a plan holds schemes (Scheme.parse reads a text), got 'nf4'"),
        ({"embedding": None}, "a plan holds schemes (Scheme.parse reads a text), got None"),
        ({"rules": (("a", "nf4"),)}, "a plan holds schemes (Scheme.parse reads a text), got 'nf4'"),
        ({"rules": (("a", NF4, 1),)}, "plan rules are (pattern, scheme) pairs, got "),
        ({"rules": "ab"}, "plan rules are (pattern, scheme) pairs, got 'ab'"),
        ({"rules": {"a": NF4}}, "plan rules are (pattern, scheme) pairs, got "),
        ({"skip": "abc"}, "plan skip is a list of patterns, got 'abc'"),
        ({"skip": (b"abc",)}, "a plan pattern is a text, got b'abc'"),
        ({"rules": ((None, NF4),)}, "a plan pattern is a text, got None"),
        ({"skip": ("(",)}, "plan pattern '(' is not a regular expression: missing ), unterminated subpattern"),
        ({"rules": (("a{99999999999}", NF4),)}, "plan pattern 'a{99999999999}' is not a regular expression: "),
        ({"skip": ("(" * 20_000 + ")" * 20_000,)}, "a plan pattern has at most 1000 characters, got 40000: '(((("),
        ({"skip": ("x" * 1000,) * 201}, "the patterns of a plan have at most 200000 characters together, got 201000"),
    ],
)
def test_values_that_are_no_plan_are_answered(values, message):
    with pytest.raises(SchemeError) as caught:
        Plan(**{"default": NF4} | values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a plan is a JSON object with a 'default' scheme"),
        ({}, "a plan is a JSON object with a 'default' scheme"),
        ({"default": 4}, "a scheme is a text such as 'nf4:g64', got int"),
        ({"default": "nf44"}, "grid 'nf' is defined for 1…8 bits, got 44"),
        ({"default": "nf4", "embedding": None}, "a scheme is a text such as 'nf4:g64', got NoneType"),
        ({"default": "nf4", "heads": "16"}, "unknown plan key 'heads': did you mean 'head'?"),
        ({"default": "nf4", 1: "16"}, "unknown plan key 1: known: "),
        ({"default": "nf4", "rules": {"a": "nf4"}}, "plan 'rules' is a list of [pattern, scheme] pairs"),
        ({"default": "nf4", "rules": [["a"]]}, "plan 'rules' is a list of [pattern, scheme] pairs"),
        ({"default": "nf4", "rules": [[1, "nf4"]]}, "a plan pattern is a text, got 1"),
        ({"default": "nf4", "rules": [["a", 4]]}, "a scheme is a text such as 'nf4:g64', got int"),
        ({"default": "nf4", "skip": "abc"}, "plan 'skip' is a list of patterns"),
        ({"default": "nf4", "skip": [["a"]]}, "a plan pattern is a text, got ['a']"),
        ({"default": "nf4", "skip": ["["]}, "plan pattern '[' is not a regular expression: "),
    ],
)
def test_json_that_is_no_plan_is_answered(value, message):
    with pytest.raises(SchemeError) as caught:
        Plan.from_json(value)
    assert message in str(caught.value)
