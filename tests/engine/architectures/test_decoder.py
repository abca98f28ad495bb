from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Matrix, NormLayer
from kbit.engine.architectures.decoder import Decoder, decoder_model
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Rotary

HEADS = HeadSizes(24, 4, 2, 6)


def test_pieces_carry_what_the_block_says() -> None:
    decoder = Decoder(HEADS, "silu", 1e-3, "layer", plus_one=True, qkv_bias=True, qk_norm=True, scale=0.1, softcap=5.0, residual=0.5)
    attention = decoder.attention("a", Rotary((1.0,)), 7)
    assert [matrix.bias for matrix in attention.inputs.matrices] == [True] * 3
    assert attention.output == Matrix("a.o_proj", 24, 24)
    assert (attention.scale, attention.softcap, attention.window) == (0.1, 5.0, 7)
    assert attention.q_norm == NormLayer("a.q_norm", 6, "layer", 1e-3, plus_one=True)
    feed = decoder.feed("m", 10, bias=True)
    gate, up = Matrix("m.gate_proj", 10, 24, bias=True), Matrix("m.up_proj", 10, 24, bias=True)
    assert feed == FeedForward((gate, up), Matrix("m.down_proj", 24, 10, bias=True), "silu")
    layer = decoder.layer(2, attention, feed)
    assert layer.feed_join == Join("pre", decoder.norm("model.layers.2.post_attention_layernorm"), scale=0.5)


def test_scores_are_scaled_by_the_heads_width_unless_told() -> None:
    assert Decoder(HEADS, "silu", 1e-3).attention("a", Rotary((1.0,))).scale == 6**-0.5


def test_the_model_around_layers() -> None:
    decoder = Decoder(HEADS, "silu", 1e-3)
    settings = Settings({"vocab_size": 50}, "test")
    model = decoder_model(settings, decoder, [], 9, tied=True, embedding_scale=2.0, logit_scale=3.0, softcap=4.0)
    assert (model.size, model.context, model.embedding.token.scale) == (24, 9, 2.0)
    assert (model.head.tied, model.head.scale, model.head.softcap) == (True, 3.0, 4.0)
    assert not decoder_model(Settings({"vocab_size": 50, "tie_word_embeddings": False}, "test"), decoder, [], 9, tied=True).head.tied
