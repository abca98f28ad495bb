import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_the_first_gemmas_gelu_is_the_tanh_approximation() -> None:
    for name in ("gelu", "gelu_pytorch_tanh"):
        assert describe(config_of("gemma") | {"hidden_act": name}).layers[0].feed.activation == "gelu_tanh"


def test_gemma2_alternates_and_caps_unless_told_not_to() -> None:
    config = config_of("gemma2")
    for key in ("layer_types", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
        del config[key]
    architecture = describe(config)
    assert [layer.attention.window for layer in architecture.layers] == [4096, None, 4096]
    assert (architecture.layers[0].attention.softcap, architecture.head.softcap) == (50.0, 30.0)
    architecture = describe(config | {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (architecture.layers[0].attention.softcap, architecture.head.softcap) == (None, None)


def test_gemma3_of_the_first_files() -> None:
    config = config_of("gemma3") | {
        "rope_theta": 500.0,
        "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    }
    for key in ("layer_types", "rope_parameters"):
        del config[key]
    layers = describe(config | {"sliding_window_pattern": 2}).layers
    assert [layer.attention for layer in layers] == [layer.attention for layer in describe(config_of("gemma3")).layers]


def test_gemma3_has_five_windows_to_one_unless_it_says_otherwise() -> None:
    config = config_of("gemma3") | {"num_hidden_layers": 7, "layer_types": None}
    assert [layer.attention.window for layer in describe(config).layers] == [6, 6, 6, 6, 6, None, 6]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gemma", "use_bidirectional_attention", True),
        ("gemma2", "use_bidirectional_attention", True),
        ("gemma3", "use_bidirectional_attention", True),
        ("gemma3", "attn_logit_softcapping", 50.0),
    ],
)
def test_what_is_not_done_is_refused(name: str, key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"'{key}': expected .*, got {value}"):
        describe(config_of(name) | {key: value})
