from kbit.engine.architectures import describe

from ..models import config_of


def test_neox_of_the_first_files() -> None:
    config = config_of("gpt_neox")
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "attention_bias", "use_parallel_residual")}
    old |= {"rotary_pct": 0.5, "rotary_emb_base": 10000}
    assert describe(old) == describe(config)


def test_a_quarter_of_a_head_is_rotated_unless_it_says_otherwise() -> None:
    config = config_of("gpt_neox") | {"rope_parameters": None, "rotary_pct": None, "hidden_size": 64}
    rotary = describe(config).layers[0].attention.rotary
    assert rotary is not None
    assert len(rotary.frequencies) == 2
