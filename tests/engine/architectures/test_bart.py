import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe_encoder_decoder

from ..models import config_of


def test_embeddings_are_scaled_by_the_root_of_the_width_where_it_says_so() -> None:
    assert describe_encoder_decoder(config_of("bart")).encoder.embedding.token.scale == 1.0
    assert describe_encoder_decoder(config_of("bart_scaled")).encoder.embedding.token.scale == pytest.approx(48**0.5)


def test_sides_have_heads_of_their_own() -> None:
    model = describe_encoder_decoder(config_of("bart"))
    assert [side.layers[0].attention.sizes.heads for side in (model.encoder, model.decoder)] == [4, 6]
    assert [layer.cross is not None for layer in model.encoder.layers] == [False] * 2
    assert [layer.cross is not None for layer in model.decoder.layers] == [True] * 3


def test_marians_vocabularies_may_differ() -> None:
    model = describe_encoder_decoder(config_of("marian_apart"))
    assert (model.encoder.embedding.token.entries, model.decoder.embedding.token.entries) == (97, 83)
    shared = describe_encoder_decoder(config_of("marian") | {"decoder_vocab_size": 83})
    assert shared.decoder.embedding.token.entries == 97


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("bart", "decoder_attention_heads", 5, "a divisor of 48"),
        ("marian", "d_model", 47, "a divisor of 47"),
        ("bart", "activation_function", "xyz", "an activation"),
    ],
)
def test_what_is_not_done_is_refused(name: str, key: str, value: object, expected: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: '.*': expected {expected}"):
        describe_encoder_decoder(config_of(name) | {key: value})


def test_waves_come_in_pairs() -> None:
    odd = {"d_model": 45, "encoder_attention_heads": 5, "decoder_attention_heads": 5}
    with pytest.raises(ModelError, match="marian: 'd_model': expected an even width, half sines and half cosines, got 45"):
        describe_encoder_decoder(config_of("marian") | odd)
