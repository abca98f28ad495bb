"""Folds of an architecture, read off the engine's description of it: what a rotation passes through unseen.

    values   attention mixes tokens and not the channels of a head, so the values of each head may come rotated (rows of v, its bias), and
             the output projection, which alone reads them, have the same rotation in its columns. Any norm, shared heads, fused matrices.
    stream   a root mean square knows no basis, so the residual stream may run rotated: what writes it (embedding rows, outputs of attention
             and feed-forward layers, their biases) rotates its outputs, what reads it (query, key, value, gate, up, router, head) has the
             rotation in its columns, once the norms' gains are multiplied into them. Ashkboos et al.: "QuaRot" (2024), "SliceGPT" (2024).

A layer norm subtracts the mean of the basis that it was trained in; a norm after a sublayer stands between what writes and the stream; a
head tied to the embedding would need the last norm's gain, and the embedding not. Such streams have no fold. The inputs of `down` come out
of a product channel by channel, which no rotation passes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kbit.core.rotation import rotation_block
from kbit.engine.architectures.blocks import FeedForward, Layer, Matrix, Mixture, NormLayer, SelfAttention
from kbit.engine.architectures.model import Architecture, Embedding
from kbit.folding.changes import Change, Gain, Heads

__all__ = ["Fold", "Kind", "Member", "find_folds"]

Kind = Literal["values", "stream"]


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor that a fold changes.

    Attributes:
        change: what becomes of it.
        shape: as stored in an ordinary checkpoint.
        reads: its columns are in the basis that is rotated.
        table: an embedding, whose rows are what comes in.
        optional: a bias that a model may lack.
    """

    change: Change
    shape: tuple[int, ...]
    reads: bool = False
    table: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Fold:
    """One rotation and all tensors that it changes, by their names in the architecture's own spelling.

    Attributes:
        kind: see the module's docstring.
        members: name → tensor.
        width: size of the stream, 0 for a fold inside a layer. A tensor of this size that is neither a member nor among `others` may read
            or write the stream, and stops the fold.
        others: what the architecture has besides.
    """

    kind: Kind
    members: Mapping[str, Member]
    width: int = 0
    others: frozenset[str] = frozenset()


def find_folds(architecture: Architecture) -> list[Fold]:
    """All folds that an architecture allows, whatever its weights are."""
    found = [_values(layer.attention) for layer in architecture.layers]
    stream = _stream(architecture)
    return [fold for fold in (*found, stream) if fold is not None]


def _values(attention: SelfAttention) -> Fold | None:
    size = attention.sizes.head_dim
    if not rotation_block(size) or attention.output.cols != attention.sizes.q_rows:
        return None
    members: dict[str, Member] = {}
    for matrix, begins in _value_rows(attention).items():
        members |= _writer(matrix, Heads(size, begins))
    members[f"{attention.output.name}.weight"] = _reader(attention.output, Change(cols=size))
    return Fold("values", members)


def _value_rows(attention: SelfAttention) -> Mapping[Matrix, tuple[int, ...]]:
    """Matrix → first rows of the heads of values that lie in it."""
    found: dict[Matrix, tuple[int, ...]] = {}
    place, at = attention.inputs.v, 0
    heads = [place.at + head * place.stride for head in range(attention.sizes.kv_heads)]
    for matrix in attention.inputs.matrices:
        inside = tuple(head - at + matrix.begin for head in heads if at <= head < at + matrix.outputs)
        if inside:
            found[matrix] = inside
        at += matrix.outputs
    return found


def _stream(architecture: Architecture) -> Fold | None:
    embedding, head, size = architecture.embedding, architecture.head, architecture.size
    alone = isinstance(embedding, Embedding) and not (
        embedding.position or embedding.types or embedding.waves or embedding.project or embedding.norm
    )
    last = head.matrix is not None and not head.tied and head.dense is None and head.dense_norm is None and not head.optional
    if not (alone and last and rotation_block(size) and all(_passes(norm) for norm in _norms(architecture))):
        return None
    assert isinstance(embedding, Embedding)
    members = {f"{embedding.token.name}.weight": Member(Change(cols=size), (embedding.token.entries, size), reads=True, table=True)}
    for matrix, before in _readers(architecture):
        name, shape = _stored(matrix)
        gain = Gain(f"{before.name}.weight", before.plus_one) if before.weight else None
        members[name] = Member(Change(cols=size, gain=gain, transposed=_transposed(matrix)), shape, reads=True)
    for matrix in _writers(architecture):
        members |= _writer(matrix, Heads(size, (0,)))
    for norm in _norms(architecture):
        if norm is not None and norm.weight:
            members[f"{norm.name}.weight"] = Member(Change(fill=0.0 if norm.plus_one else 1.0), (size,))
    return Fold("stream", members, size, frozenset(_others(architecture)))


def _others(architecture: Architecture) -> Iterator[str]:
    """Vectors that are of outputs only."""
    yield from (f"{matrix.name}.bias" for matrix, _ in _readers(architecture) if isinstance(matrix, Matrix) and matrix.bias)
    for layer in architecture.layers:
        for norm in (layer.attention.q_norm, layer.attention.k_norm):
            if norm is not None:
                yield f"{norm.name}.weight"


def _passes(norm: NormLayer | None) -> bool:
    return norm is not None and norm.kind == "rms" and not norm.bias


def _norms(architecture: Architecture) -> Iterator[NormLayer | None]:
    """All norms of the stream; None for a place where there is none of the kind that is meant."""
    for layer in architecture.layers:
        for join in (layer.attention_join, layer.feed_join):
            yield join.norm if join.place == "pre" and layer.cross is None else None
    yield architecture.head.norm


def _readers(architecture: Architecture) -> Iterator[tuple["Matrix | _Stack", NormLayer]]:
    for layer in architecture.layers:
        yield from ((matrix, layer.attention_join.norm) for matrix in layer.attention.inputs.matrices)
        yield from ((matrix, layer.feed_join.norm) for matrix in _feed_inputs(layer))
    head = architecture.head
    assert head.matrix is not None
    assert head.norm is not None
    yield head.matrix, head.norm


def _feed_inputs(layer: Layer) -> tuple["Matrix | _Stack", ...]:
    feed = layer.feed
    if isinstance(feed, FeedForward):
        return feed.inputs
    return feed.router, _Stack(f"{feed.experts}.gate_up_proj", (feed.count, 2 * feed.width, feed.size))


def _writers(architecture: Architecture) -> Iterator["Matrix | _Stack"]:
    for layer in architecture.layers:
        yield layer.attention.output
        feed = layer.feed
        yield _Stack(f"{feed.experts}.down_proj", (feed.count, feed.size, feed.width)) if isinstance(feed, Mixture) else feed.output


@dataclass(frozen=True, slots=True)
class _Stack:
    """Matrices of all experts, a parameter of its own."""

    name: str
    shape: tuple[int, int, int]


def _stored(matrix: Matrix | _Stack) -> tuple[str, tuple[int, ...]]:
    if isinstance(matrix, _Stack):
        return matrix.name, matrix.shape
    return f"{matrix.name}.weight", (matrix.cols, matrix.rows) if matrix.conv1d else (matrix.rows, matrix.cols)


def _transposed(matrix: Matrix | _Stack) -> bool:
    return isinstance(matrix, Matrix) and matrix.conv1d


def _reader(matrix: Matrix, change: Change) -> Member:
    return Member(Change(cols=change.cols, transposed=matrix.conv1d), _stored(matrix)[1], reads=True)


def _writer(matrix: Matrix | _Stack, heads: Heads) -> dict[str, Member]:
    name, shape = _stored(matrix)
    members = {name: Member(Change(rows=(heads,), transposed=_transposed(matrix)), shape)}
    if isinstance(matrix, Matrix):
        members[f"{matrix.name}.bias"] = Member(Change(rows=(heads,)), (matrix.rows,), optional=not matrix.bias)
    return members
