"""Pieces that entries of several families are made of."""

from kbit.engine.architectures.blocks import HeadPlace, HeadSizes, Matrix, Projections
from kbit.engine.architectures.settings import Settings

__all__ = ["interleaved", "read_heads", "separate", "side_by_side", "windows"]

#: rotations have a number for every other dimension
_MOST_DIMENSIONS = 1 << 16


def read_heads(settings: Settings, *, kv_heads: int | None = None, head_dim: int | None = None) -> HeadSizes:
    """Sizes from the usual keys.

    Args:
        settings: the configuration.
        kv_heads: where it says nothing; None for as many as there are query heads.
        head_dim: where it says nothing; None for the stream's width over the heads.

    Raises:
        ModelError: heads that do not divide what they share.
    """
    size, heads = settings.integer("hidden_size", "n_embd", "n_embed"), settings.integer("num_attention_heads", "n_head")
    kv_heads = settings.optional_integer("num_key_value_heads", default=kv_heads) or heads
    if heads % kv_heads:
        raise settings.error(("num_key_value_heads",), f"a divisor of {heads} heads", kv_heads)
    head_dim = settings.optional_integer("head_dim", default=head_dim)
    if head_dim is None and size % heads:
        raise settings.error(("num_attention_heads",), f"a divisor of {size}", heads)
    head_dim = head_dim or size // heads
    if head_dim > _MOST_DIMENSIONS:
        raise settings.error(("head_dim",), f"at most {_MOST_DIMENSIONS} dimensions of a head", head_dim)
    return HeadSizes(size, heads, kv_heads, head_dim)


def separate(names: tuple[str, str, str], heads: HeadSizes, *, bias: bool) -> Projections:
    """Queries, keys and values by a matrix each."""
    q, k, v = names
    rows = ((q, heads.q_rows), (k, heads.kv_rows), (v, heads.kv_rows))
    matrices = tuple(Matrix(name, count, heads.size, bias=bias) for name, count in rows)
    return Projections(matrices, *_places(heads))


def side_by_side(name: str, heads: HeadSizes, *, bias: bool, conv1d: bool = False) -> Projections:
    """All of them by one matrix: rows of queries, then of keys, then of values."""
    matrix = Matrix(name, heads.q_rows + 2 * heads.kv_rows, heads.size, bias=bias, conv1d=conv1d)
    return Projections((matrix,), *_places(heads))


def interleaved(name: str, heads: HeadSizes, *, bias: bool) -> Projections:
    """All of them by one matrix: for each head its query, key and value."""
    matrix = Matrix(name, 3 * heads.q_rows, heads.size, bias=bias)
    stride = 3 * heads.head_dim
    q, k, v = (HeadPlace(part * heads.head_dim, stride) for part in range(3))
    return Projections((matrix,), q, k, v)


def windows(settings: Settings, pattern: tuple[str, ...], default: int = 4096) -> tuple[int | None, ...]:
    """Window of each layer, by `layer_types` or else the family's own `pattern` of such words; `default` where no width is given.

    Raises:
        ModelError: layers with a window, and `null` for its width.
    """
    types = settings.words("layer_types", len(pattern), ("sliding_attention", "full_attention")) or pattern
    window = settings.optional_integer("sliding_window", default=default)
    if window is None and "sliding_attention" in types:
        raise settings.error(("sliding_window",), "the width of layers of type 'sliding_attention'", None)
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _places(heads: HeadSizes) -> tuple[HeadPlace, HeadPlace, HeadPlace]:
    d = heads.head_dim
    return HeadPlace(0, d), HeadPlace(heads.q_rows, d), HeadPlace(heads.q_rows + heads.kv_rows, d)
