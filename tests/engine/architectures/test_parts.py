import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures.blocks import HeadPlace, HeadSizes, Matrix
from kbit.engine.architectures.parts import interleaved, read_heads, separate, side_by_side, windows
from kbit.engine.architectures.settings import Settings

HEADS = HeadSizes(size=24, heads=4, kv_heads=2, head_dim=5)


def settings(**values: object) -> Settings:
    return Settings({"hidden_size": 24, "num_attention_heads": 4, **values}, "test")


def test_sizes_of_heads() -> None:
    assert read_heads(settings()) == HeadSizes(24, 4, 4, 6)
    assert read_heads(settings(num_key_value_heads=2, head_dim=5)) == HEADS
    assert (HEADS.q_rows, HEADS.kv_rows, HEADS.scale) == (20, 10, 5**-0.5)


def test_absent_sizes_are_the_familys_and_null_ones_the_usual() -> None:
    assert read_heads(settings(), kv_heads=2, head_dim=5) == HEADS
    assert read_heads(settings(num_key_value_heads=None, head_dim=None), kv_heads=2, head_dim=5) == HeadSizes(24, 4, 4, 6)


def test_heads_must_divide_what_they_share() -> None:
    with pytest.raises(ModelError, match="'num_key_value_heads': expected a divisor of 4 heads, got 3"):
        read_heads(settings(num_key_value_heads=3))
    with pytest.raises(ModelError, match="'num_attention_heads': expected a divisor of 24, got 5"):
        read_heads(settings(num_attention_heads=5))
    assert read_heads(settings(num_attention_heads=5, head_dim=7)) == HeadSizes(24, 5, 5, 7)


def test_heads_have_a_bounded_width() -> None:
    for values in ({"head_dim": 65537}, {"hidden_size": 4 * 65537}):
        with pytest.raises(ModelError, match="'head_dim': expected at most 65536 dimensions of a head, got 65537"):
            read_heads(settings(**values))


def test_projections_say_where_their_heads_lie() -> None:
    apart = separate(("q", "k", "v"), HEADS, bias=True)
    assert apart.matrices == (Matrix("q", 20, 24, bias=True), Matrix("k", 10, 24, bias=True), Matrix("v", 10, 24, bias=True))
    together = side_by_side("qkv", HEADS, bias=False, conv1d=True)
    assert together.matrices == (Matrix("qkv", 40, 24, conv1d=True),)
    for projections in (apart, together):
        assert (projections.q, projections.k, projections.v) == (HeadPlace(0, 5), HeadPlace(20, 5), HeadPlace(30, 5))
    mixed = interleaved("qkv", HeadSizes(24, 4, 4, 6), bias=False)
    assert mixed.matrices == (Matrix("qkv", 72, 24),)
    assert (mixed.q, mixed.k, mixed.v) == (HeadPlace(0, 18), HeadPlace(6, 18), HeadPlace(12, 18))


def test_windows_by_pattern_or_by_list() -> None:
    pattern = ("sliding_attention", "full_attention")
    assert windows(settings(), pattern, 7) == (7, None)
    assert windows(settings(sliding_window=5), pattern) == (5, None)
    assert windows(settings(sliding_window=5, layer_types=["full_attention", "sliding_attention"]), pattern) == (None, 5)
    assert windows(settings(sliding_window=None), ("full_attention",)) == (None,)
    with pytest.raises(ModelError, match="'sliding_window': expected the width of layers of type 'sliding_attention', got None"):
        windows(settings(sliding_window=None), pattern)
    with pytest.raises(ModelError, match="'layer_types': expected a list of 2 of sliding_attention, full_attention"):
        windows(settings(layer_types=["chunked_attention", "full_attention"]), pattern)
