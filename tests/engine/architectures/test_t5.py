import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe_encoder_decoder
from kbit.engine.architectures.blocks import FeedForward

from ..models import config_of


def described(**changes: object) -> tuple[float, int | None]:
    model = describe_encoder_decoder({**config_of("t5"), **changes})
    return model.decoder.head.scale, model.start


def test_states_are_scaled_unless_the_head_is_untied() -> None:
    config = config_of("t5")
    del config["scale_decoder_outputs"]
    assert describe_encoder_decoder(config | {"tie_word_embeddings": True}).decoder.head.scale == pytest.approx(48**-0.5)
    assert describe_encoder_decoder(config | {"tie_word_embeddings": False}).decoder.head.scale == 1.0
    # transformers 5 ties always, and keeps what was meant in a key of its own
    assert described(scale_decoder_outputs=False, tie_word_embeddings=True)[0] == 1.0


def test_texts_begin_with_padding_unless_it_says_otherwise() -> None:
    assert described()[1] == 0
    assert described(decoder_start_token_id=5)[1] == 5
    assert described(pad_token_id=None)[1] is None


def test_both_sides_are_as_deep_unless_it_says_otherwise() -> None:
    model = describe_encoder_decoder(config_of("t5") | {"num_decoder_layers": None})
    assert len(model.encoder.layers) == len(model.decoder.layers) == 2


@pytest.mark.parametrize(
    ("word", "activation", "matrices"),
    [("relu", "relu", 1), ("gated-gelu", "gelu_tanh", 2), ("gated-silu", "silu", 2), ("gelu", "gelu", 1)],
)
def test_feed_forward_layers_by_a_word(word: str, activation: str, matrices: int) -> None:
    feed = describe_encoder_decoder(config_of("t5") | {"feed_forward_proj": word}).encoder.layers[0].feed
    assert isinstance(feed, FeedForward)
    assert (feed.activation, len(feed.inputs)) == (activation, matrices)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("feed_forward_proj", "gated-xyz", "an activation"),
        ("feed_forward_proj", 3, "a text"),
        ("relative_attention_num_buckets", 2, "an integer in 4…"),
        ("relative_attention_max_distance", 8, "more than 8 buckets"),
    ],
)
def test_what_is_not_done_is_refused(key: str, value: object, expected: str) -> None:
    with pytest.raises(ModelError, match=f"t5: '{key}': expected {expected}"):
        describe_encoder_decoder(config_of("t5") | {key: value})
