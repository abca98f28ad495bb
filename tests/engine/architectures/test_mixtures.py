import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe
from kbit.engine.architectures.blocks import FeedForward, Mixture

from ..models import config_of


def mixtures(**changes: object) -> list[bool]:
    return [isinstance(layer.feed, Mixture) for layer in describe({**config_of("qwen3_moe"), **changes}).layers]


def test_layers_are_mixtures_by_step_and_list() -> None:
    assert mixtures(decoder_sparse_step=1, mlp_only_layers=[]) == [True] * 4
    assert mixtures(decoder_sparse_step=2, mlp_only_layers=None) == [False, True, False, True]
    assert mixtures(decoder_sparse_step=2, mlp_only_layers=[3]) == [False, True, False, False]


def test_mixtrals_weights_are_divided_by_their_sum_and_qwens_if_it_says_so() -> None:
    def normalize(name: str) -> bool:
        (feed, *_) = [layer.feed for layer in describe(config_of(name)).layers if not isinstance(layer.feed, FeedForward)]
        return feed.normalize

    assert normalize("mixtral")
    assert normalize("qwen3_moe_normalized")
    assert not normalize("qwen3_moe")


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_more_experts_than_there_are_cannot_be_taken(name: str) -> None:
    with pytest.raises(ModelError, match=r"'num_experts_per_tok': expected at most [56] experts, got 7"):
        describe(config_of(name) | {"num_experts_per_tok": 7})


def test_qwen_uses_its_window_only_where_it_says_so() -> None:
    def window(**changes: object) -> int | None:
        return describe({**config_of("qwen3_moe_normalized"), **changes}).layers[0].attention.window

    assert window() == 6
    assert window(use_sliding_window=False) is None
