from kbit.engine.architectures import describe

from ..models import config_of


def test_bloom_of_the_first_files() -> None:
    config = config_of("bloom")
    old = {key: value for key, value in config.items() if key not in ("hidden_size", "n_layer", "n_head")}
    old |= {"n_embed": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    assert describe(old) == describe(config)


def test_order_of_sums_and_length_change_nothing() -> None:
    config = config_of("bloom")
    assert describe(config | {"pretraining_tp": 4, "slow_but_exact": True, "seq_length": 2048}) == describe(config)
    assert describe(config).context == 0
