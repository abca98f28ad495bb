import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_scores_are_scaled_as_it_says() -> None:
    def scales(**changes: object) -> list[float]:
        return [layer.attention.scale for layer in describe({**config_of("gpt2"), **changes}).layers]

    assert scales() == pytest.approx([12**-0.5] * 3)
    assert scales(scale_attn_by_inverse_layer_idx=True) == pytest.approx([12**-0.5, 12**-0.5 / 2, 12**-0.5 / 3])
    assert scales(scale_attn_weights=False) == [1.0] * 3


def test_precision_and_inner_width_change_nothing_unless_set() -> None:
    config = config_of("gpt2")
    assert describe(config | {"reorder_and_upcast_attn": True, "n_inner": None}) == describe(config)


def test_cross_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="gpt2: 'add_cross_attention': expected False, got True"):
        describe(config_of("gpt2") | {"add_cross_attention": True})
