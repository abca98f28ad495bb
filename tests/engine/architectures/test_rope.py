"""Frequencies against transformers' own, at the sizes and scalings of published models."""

from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kbit.core.errors import ModelError
from kbit.engine.architectures.rope import Rope, RopeDialect, plain_rotary, read_rope
from kbit.engine.architectures.settings import Settings

LONG = {"short_factor": [1 + i / 40 for i in range(48)], "long_factor": [1.5 + i for i in range(48)]}

SCALINGS: dict[str, dict[str, Any]] = {
    "llama 3.1": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192},
    "linear": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0},
    "qwen2 yarn": {"rope_theta": 1000000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn by the lengths' ratio": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4096},
    "yarn with all options": {"rope_theta": 150000.0, "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                              "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "attention_factor": 1.2},
    "yarn of two scales": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
                           "mscale": 1.0, "mscale_all_dim": 0.7},
    "longrope": {"rope_theta": 10000.0, "rope_type": "longrope", "original_max_position_embeddings": 4096, **LONG},
    "longrope with a factor": {"rope_theta": 10000.0, "rope_type": "longrope", "original_max_position_embeddings": 4096,
                               "factor": 2.0, **LONG},
    "longrope with its own": {"rope_theta": 10000.0, "rope_type": "longrope", "original_max_position_embeddings": 4096,
                              "attention_factor": 1.1, **LONG},
    "partial": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.48},
}  # fmt: skip


def config(scaling: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_size": 384, "num_attention_heads": 4, "max_position_embeddings": 131072, "rope_parameters": dict(scaling)}


def theirs(values: dict[str, Any], seq_len: int | None = None) -> tuple[np.ndarray, float]:
    made = transformers.LlamaConfig(**values)
    frequencies, factor = ROPE_INIT_FUNCTIONS[made.rope_parameters["rope_type"]](made, "cpu", seq_len=seq_len)
    return frequencies.numpy(), factor


def ours(values: dict[str, Any], context: int | None = None, dialect: RopeDialect | None = None, layer_type: str | None = None) -> Rope:
    return read_rope(Settings(values, "llama", context), 96, dialect, layer_type)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.filterwarnings("ignore")
def test_frequencies_are_transformers(name: str) -> None:
    values = config(SCALINGS[name])
    frequencies, factor = theirs(values)
    rope = ours(values)
    np.testing.assert_allclose(rope.rotary.frequencies, frequencies, rtol=1e-6)
    assert rope.rotary.factor == pytest.approx(factor, rel=1e-12)
    assert not rope.rotary.interleaved
    assert rope.context == (4096 if name.startswith("longrope") else 131072)


def test_long_texts_take_the_long_factors() -> None:
    values = config(SCALINGS["longrope"])
    rope = ours(values, context=4097)
    np.testing.assert_allclose(rope.rotary.frequencies, theirs(values, seq_len=4097)[0], rtol=1e-6)
    assert rope.context == 131072
    assert ours(values, context=4096) == ours(values)


def test_plain_frequencies() -> None:
    expected = 1 / 10000 ** (np.arange(0, 96, 2) / 96)
    for values in (config({"rope_type": "default"}), {"max_position_embeddings": 131072}):
        rope = ours(values)
        np.testing.assert_allclose(rope.rotary.frequencies, expected, rtol=1e-6)
        assert (rope.rotary.factor, rope.context) == (1.0, 131072)
    assert plain_rotary(10000.0, 96) == ours(config({})).rotary


@pytest.mark.parametrize("name", ["llama 3.1", "linear", "qwen2 yarn", "longrope"])
def test_the_older_wording_means_the_same(name: str) -> None:
    scaling = dict(SCALINGS[name])
    old = config({}) | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": {"type": scaling.pop("rope_type"), **scaling}}
    del old["rope_parameters"]
    assert ours(old) == ours(config(SCALINGS[name]))


def test_an_odd_number_of_dimensions_is_rounded_up_where_it_fits() -> None:
    values = Settings({"max_position_embeddings": 64, "partial_rotary_factor": 0.25}, "test")
    assert len(read_rope(values, 12).rotary.frequencies) == 2
    with pytest.raises(ModelError, match="'partial_rotary_factor': expected a share that makes pairs of a head's 7 dimensions, got 1"):
        read_rope(Settings({"max_position_embeddings": 64}, "test"), 7)


def test_families_word_it_in_their_own_way() -> None:
    dialect = RopeDialect(theta=500.0, theta_key="base", partial=0.25, partial_key="share", renamed={"su": "linear"})
    usual = ours(config({"rope_theta": 500.0, "partial_rotary_factor": 0.25}))
    assert ours(config({}), dialect=dialect) == usual
    assert ours(config({}) | {"base": 500, "share": 0.25}, dialect=RopeDialect(theta_key="base", partial_key="share")) == usual
    renamed = config({"rope_type": "su", "factor": 2.0, "rope_theta": 500.0})
    assert ours(renamed, dialect=dialect) == ours(
        config({"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0, "partial_rotary_factor": 0.25})
    )


def test_layers_may_have_rotations_of_their_own() -> None:
    nested = config({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}})
    old = config({}) | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    local = RopeDialect(theta_key="rope_local_base_freq")
    for values in (nested, old):
        assert ours(values, layer_type="full_attention") == ours(config({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}))
        assert ours(values, dialect=local, layer_type="sliding_attention") == ours(config({"rope_theta": 1e4}))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, r"'rope_type': expected a scaling that the engine knows \(.*\), got 'dynamic'"),
        ({"rope_type": "yarm"}, r"\(did you mean 'yarn'\?\), got 'yarm'"),
        ({"rope_type": 3}, "'rope_type': expected a scaling"),
        ({"rope_type": ["linear"]}, "'rope_type': expected a scaling"),
        ({"rope_type": "linear"}, "llama: rope_parameters: 'factor': expected a number above 0, got None"),
        ({"rope_type": "linear", "factor": 0}, "'factor': expected a number above 0, got 0"),
        ({"rope_type": "llama3", "factor": 8.0}, "'low_freq_factor': expected a number"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
         "'high_freq_factor': expected more than low_freq_factor 4, got 4"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0]},
         "'long_factor': expected a list of 48 positive numbers"),
        ({"rope_type": "longrope", **LONG, "original_max_position_embeddings": 1},
         "'original_max_position_embeddings': expected at least 2, got 1"),
        ({"mrope_section": [1, 2]}, r"'mrope_section': expected only keys that the engine knows"),
        ({"rope_theta": -1.0}, "'rope_theta': expected a number above 0, got -1.0"),
        ({"partial_rotary_factor": 1.5}, "expected a share that makes pairs of a head's 96 dimensions, got 1.5"),
        ({"partial_rotary_factor": 0.01}, "'partial_rotary_factor': expected a share that makes pairs"),
    ],
)  # fmt: skip
def test_other_scalings_are_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ours(config(scaling))
