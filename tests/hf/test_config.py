"""`KbitConfig` as a value: what it accepts, what it writes, what it refuses."""

import copy
import json

import pytest

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.quantizers import auto
from transformers.quantizers.auto import AutoQuantizationConfig

from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme
from kbit.hf import KbitConfig, KbitHfQuantizer

SCHEMES = st.sampled_from(
    ["nf4:g64", "int3:g128:asym:mse", "float4e2:g32:e4m3", "log4r2:g64", "kmeans3:g128", "int8:g-1", "vq2.5d2:g128", "16"]
)
PLANS = st.builds(
    Plan,
    default=SCHEMES.map(Scheme.parse),
    embedding=SCHEMES.map(Scheme.parse),
    head=SCHEMES.map(Scheme.parse),
    rules=st.lists(st.tuples(st.sampled_from([r"layers\.0\.", "mlp", "q_proj$"]), SCHEMES.map(Scheme.parse)), max_size=2).map(tuple),
    skip=st.lists(st.sampled_from(["lm_head", r"layers\.\d+\.mlp"]), max_size=2).map(tuple),
)


def test_registered_under_its_method() -> None:
    assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["kbit"] is KbitConfig
    assert auto.AUTO_QUANTIZER_MAPPING["kbit"] is KbitHfQuantizer
    assert KbitConfig in auto.LOADING_ATTRIBUTES_CONFIG_TYPES


@given(plan=PLANS, mode=st.sampled_from(["fast", "exact"]), dequantize=st.booleans())
@settings(max_examples=50, deadline=None)
def test_json_round_trip(plan: Plan, mode: str, dequantize: bool) -> None:
    config = KbitConfig(plan, mode=mode, dequantize=dequantize)
    text = config.to_json_string()
    back = AutoQuantizationConfig.from_dict(json.loads(text))
    assert back == config
    assert hash(back) == hash(config)
    assert (back.plan, back.mode, back.dequantize) == (plan, mode, dequantize)
    assert copy.deepcopy(config) == config
    assert dict(config) == config.to_dict() == json.loads(text)


def test_stored_form_is_the_plan_with_two_fixed_keys() -> None:
    config = KbitConfig("nf4", head="int8", rules=[("down_proj", "int6:g128")], modules_to_not_convert=["lm_head"])
    assert config.to_dict() == {
        "quant_method": "kbit",
        "version": 1,
        "default": "nf4:g64",
        "embedding": "16",
        "head": "int8:g64",
        "rules": [["down_proj", "int6:g128"]],
        "skip": [r"(?:^|\.)(?:lm_head)(?:\.|$)"],
    }


def test_texts_schemes_and_plans_mean_the_same() -> None:
    scheme = Scheme.parse("int4:g128")
    assert KbitConfig("int4:g128") == KbitConfig(scheme) == KbitConfig(Plan(scheme))


@pytest.mark.parametrize(
    ("name", "left_alone"),
    [("model.layers.1.mlp", True), ("model.layers.1", True), ("model.layers.11.mlp", False), ("my_layers.1.mlp", False)],
)
def test_modules_to_not_convert_matches_whole_parts_of_a_name(name: str, left_alone: bool) -> None:
    plan = KbitConfig("nf4", modules_to_not_convert=["layers.1"]).plan
    assert plan is not None
    assert (plan.scheme_for(name, "linear") == KEEP) is left_alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KbitConfig("nf44g64"), "nf44g64"),
        (lambda: KbitConfig("ng4"), "did you mean 'nf'"),
        (lambda: KbitConfig("nf4:e4n3"), "did you mean 'e4m3'"),
        (lambda: KbitConfig("nf4", haed="16"), "did you mean 'head'"),
        (lambda: KbitConfig("nf4", load_in_4bit=True), "KbitConfig\\('nf4:g64'\\)"),
        (lambda: KbitConfig("nf4", group_size=64), "the scheme's own group"),
        (lambda: KbitConfig("nf4", mode="quick"), "'fast' or 'exact', got 'quick'"),
        (lambda: KbitConfig("nf4", dequantize="yes"), "true or false, got 'yes'"),
        (lambda: KbitConfig("nf4", rules=[("(", "int8")]), "not a regular expression"),
        (lambda: KbitConfig("nf4", modules_to_not_convert="lm_head"), "a list of names, got the text 'lm_head'"),
        (lambda: KbitConfig(head="int8"), "go with a scheme"),
        (lambda: KbitConfig.from_dict({"version": 1, "default": "nf4", "embeding": "16"}), "did you mean 'embedding'"),
        (lambda: KbitConfig.from_dict({"version": 2, "default": "nf4"}), "version 2 is not readable here; expected 1"),
        (lambda: KbitConfig.from_dict({"version": True, "default": "nf4"}), "version True"),
        (lambda: KbitConfig.from_dict({"default": "nf4"}), "version None"),
        (lambda: KbitConfig.from_dict({"version": 1, "quant_method": "gptq", "default": "nf4"}), "got 'gptq'"),
        (lambda: KbitConfig.from_dict({"version": 1, "head": "int8"}), "'default' scheme"),
        (lambda: KbitConfig.from_dict(["nf4"]), "JSON object, got list"),
    ],
)
def test_refusals_say_what_was_expected(make: object, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        make()  # type: ignore[operator]


def test_a_configuration_without_scheme_only_loads() -> None:
    config = KbitConfig(dequantize=True)
    assert config.plan is None
    assert config.to_dict() == {"quant_method": "kbit", "version": 1, "dequantize": True}
    assert config.get_loading_attributes() == {"dequantize": True}


def test_loading_attributes_are_what_was_given() -> None:
    config = KbitConfig("nf4", mode="exact")
    assert config.get_loading_attributes() == {"mode": "exact", "requested_plan": config.plan}
    assert KbitConfig().get_loading_attributes() == {}
