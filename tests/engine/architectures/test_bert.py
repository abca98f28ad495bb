import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_robertas_positions_begin_after_the_padding_token() -> None:
    for padding in (0, 1, 3):
        architecture = describe(config_of("roberta") | {"pad_token_id": padding})
        assert architecture.embedding.position is not None
        assert architecture.embedding.position.offset == padding + 1
        assert architecture.context == 64 - padding - 1


def test_robertas_head_always_takes_gelu() -> None:
    architecture = describe(config_of("roberta_masked") | {"hidden_act": "relu"})
    assert (architecture.head.activation, architecture.layers[0].feed.activation) == ("gelu", "relu")


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("key", "value"), [("is_decoder", True), ("add_cross_attention", True), ("position_embedding_type", "relative_key")]
)
def test_what_is_not_done_is_refused(name: str, key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{name}: '{key}': expected .*, got "):
        describe(config_of(name) | {key: value})
