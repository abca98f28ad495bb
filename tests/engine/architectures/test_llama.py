import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def windows(name: str, **changes: object) -> list[int | None]:
    return [layer.attention.window for layer in describe({**config_of(name), **changes}).layers]


def test_llama_of_the_first_files_has_fewer_keys() -> None:
    config = config_of("llama")
    for key in ("head_dim", "attention_bias", "mlp_bias", "num_key_value_heads", "rope_parameters", "hidden_act", "tie_word_embeddings"):
        config.pop(key, None)
    architecture = describe(config)
    assert architecture.layers[0].attention.sizes.kv_heads == 4
    assert not architecture.head.tied


def test_mistrals_window_is_4096_unless_it_says_otherwise() -> None:
    assert windows("mistral") == [5] * 3
    assert windows("mistral", sliding_window=None) == [None] * 3
    config = config_of("mistral")
    del config["sliding_window"]
    assert [layer.attention.window for layer in describe(config).layers] == [4096] * 3


def test_mistrals_with_patterns_are_refused() -> None:
    with pytest.raises(ModelError, match="mistral: 'layer_types': expected no value, got"):
        describe(config_of("mistral") | {"layer_types": ["full_attention"] * 3})


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_qwens_upper_layers_have_windows_where_they_are_used(name: str) -> None:
    changes = {"layer_types": None, "sliding_window": 6}
    assert windows(name, use_sliding_window=True, max_window_layers=1, **changes) == [None, 6, 6]
    assert windows(name, use_sliding_window=True, max_window_layers=28, **changes) == [None] * 3
    assert windows(name, use_sliding_window=False, max_window_layers=1, **changes) == [None] * 3


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(ModelError, match=r"llama: 'hidden_act': expected an activation \(known: .*\), got 'xyz'"):
        describe(config_of("llama") | {"hidden_act": "xyz"})


def test_granites_factors_are_one_unless_it_says_otherwise() -> None:
    config = config_of("granite")
    for key in ("attention_multiplier", "residual_multiplier", "embedding_multiplier", "logits_scaling"):
        del config[key]
    architecture = describe(config)
    layer = architecture.layers[0]
    assert (layer.attention.scale, layer.feed_join.scale, architecture.embedding.token.scale, architecture.head.scale) == (1, 1, 1, 1)
