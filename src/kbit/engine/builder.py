"""`Builder`: an architecture's data becomes operations, its names those of the checkpoint, its widths buffers."""

from typing import Literal

from kbit.engine.architectures.blocks import Cross, FeedForward, Join, Layer, Matrix, Mixture, RelativeTable, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head, PatchEmbedding
from kbit.engine.names import Names
from kbit.engine.ops import (
    Activation,
    Attention,
    Begin,
    CrossAttention,
    Embed,
    Experts,
    ForwardPlan,
    Heads,
    Linear,
    Norm,
    Normalize,
    Op,
    Part,
    Relative,
    Remember,
    Select,
    Waves,
    WeightSlice,
)
from kbit.engine.weights import ModelWeights

__all__ = ["Builder"]


class Builder:
    """Collects the operations of one model, and the buffers between them.

    Args:
        architecture: of the model.
        weights: that must hold all that it names.
        memory: what the layers of a decoder project from this model's states; empty where none follows.
    """

    def __init__(self, architecture: Architecture, weights: ModelWeights, memory: tuple[Cross, ...] = ()) -> None:
        self.architecture, self.memory, self.names = architecture, memory, Names(weights, architecture.spellings)
        self.ops: list[Op] = []
        self.buffers: dict[str, int] = {}

    def build(self) -> ForwardPlan:
        """The plan.

        Raises:
            ModelError: a weight that is not there, or of another shape.
        """
        architecture = self.architecture
        embedding = architecture.embedding
        source: str | None = None
        if isinstance(embedding, PatchEmbedding):
            source = self._patches(embedding)
        else:
            self._embedding(embedding)
        for index, layer in enumerate(architecture.layers):
            self._layer(index, layer)
        result = self._head(architecture.head)
        sizes = architecture.layers[0].attention.sizes
        return ForwardPlan(
            ops=tuple(self.ops),
            buffers=dict(self.buffers),
            result=result,
            vocabulary=embedding.token.entries if isinstance(embedding, Embedding) else 0,
            context=architecture.context,
            layers=len(architecture.layers),
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            causal=architecture.causal,
            architecture=architecture.name,
            input=source,
        )

    def _buffer(self, name: str, width: int) -> str:
        assert self.buffers.setdefault(name, width) == width, f"{name} is {self.buffers[name]} wide, got {width}"
        return name

    def _stream(self) -> str:
        return self._buffer("x", self.architecture.size)

    def _patches(self, embedding: PatchEmbedding) -> str:
        """The stream from patches of images; answers with the buffer that they come in."""
        x, patches = self._stream(), self._buffer("patches", embedding.project.cols)
        self._linear(patches, None, embedding.project, x)
        self.ops.append(Begin(self.names.table(embedding.first), x))
        self._embed(embedding.position, "position", x, accumulate=True)
        return patches

    def _embedding(self, embedding: Embedding) -> None:
        """The stream from tokens."""
        x = self._stream()
        if embedding.project is None:
            self._embed(embedding.token, "token", x)
        else:
            narrow = self._buffer("words", embedding.token.width)
            self._embed(embedding.token, "token", narrow)
            self._linear(narrow, None, embedding.project, x)
        if embedding.types is not None:
            self._embed(embedding.types, "type", x, accumulate=True)
        if embedding.position is not None:
            self._embed(embedding.position, "position", x, accumulate=True)
        if embedding.waves is not None:
            self.ops.append(Waves(embedding.waves, x, accumulate=True))
        self._normalize(x, self.names.norm(embedding.norm), x)

    def _embed(self, table: Table, source: Literal["token", "position", "type"], out: str, *, accumulate: bool = False) -> None:
        self.ops.append(Embed(self.names.table(table), out, source, table.scale, table.offset, accumulate))

    def _linear(self, source: str, norm: Norm | None, matrix: Matrix, out: str, activation: Activation = "none") -> None:
        self.ops.append(Linear(source, norm, (self.names.part(matrix),), out, activation))

    def _normalize(self, source: str, norm: Norm | None, out: str, *, accumulate: bool = False) -> None:
        if norm is not None:
            self.ops.append(Normalize(source, out, norm, accumulate))

    def _layer(self, index: int, layer: Layer) -> None:
        if layer.parallel:
            mixed = self._attend(index, layer.attention, self._enter(layer.attention_join))
            assert isinstance(layer.feed, FeedForward), "no family has experts beside attention"
            inner = self._inner(layer.feed, self._enter(layer.feed_join))
            self._leave(mixed, layer.attention.output, layer.attention_join)
            self._leave(inner, layer.feed.output, layer.feed_join)
            return
        mixed = self._attend(index, layer.attention, self._enter(layer.attention_join))
        self._leave(mixed, layer.attention.output, layer.attention_join)
        if layer.cross is not None and layer.cross_join is not None:
            self._leave(self._consult(index, layer.cross, self._enter(layer.cross_join)), layer.cross.output, layer.cross_join)
        norm = self._enter(layer.feed_join)
        if isinstance(layer.feed, Mixture):
            self._experts(layer.feed, norm)
        else:
            self._leave(self._inner(layer.feed, norm), layer.feed.output, layer.feed_join)

    def _enter(self, join: Join) -> Norm | None:
        """The norm that a sublayer applies to the stream as it reads it."""
        norm = self.names.norm(join.norm)
        if join.place == "replace":
            self._normalize(self._stream(), norm, self._stream())
        return norm if join.place in ("pre", "sandwich") else None

    def _leave(self, source: str, matrix: Matrix, join: Join) -> None:
        """A sublayer's last matrix, and what joins it to the stream."""
        x, part = self._stream(), (self.names.part(matrix),)
        if join.place == "sandwich":
            y = self._buffer("y", self.architecture.size)
            self.ops.append(Linear(source, None, part, y))
            self._normalize(y, self.names.norm(join.after), x, accumulate=True)
            return
        self.ops.append(Linear(source, None, part, x, accumulate=True, scale=join.scale))
        if join.place == "post":
            self._normalize(x, self.names.norm(join.norm), x)

    def _attend(self, index: int, attention: SelfAttention, norm: Norm | None) -> str:
        """Projections and attention; answers with the buffer of the heads' outputs."""
        parts: list[Part] = []
        width = 0
        for matrix in attention.inputs.matrices:
            parts.append(self.names.part(matrix, width))
            width += matrix.outputs
        qkv = self._buffer("qkv", width)
        self.ops.append(Linear(self._stream(), norm, tuple(parts), qkv))
        sizes = attention.sizes
        out = self._buffer("mixed", sizes.q_rows)
        q, k, v = (Heads(qkv, place.at, place.stride) for place in (attention.inputs.q, attention.inputs.k, attention.inputs.v))
        self.ops.append(
            Attention(
                layer=index, q=q, k=k, v=v, out=out,
                heads=sizes.heads, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim, scale=attention.scale,
                causal=self.architecture.causal, rotary=attention.rotary,
                q_norm=self.names.norm(attention.q_norm), k_norm=self.names.norm(attention.k_norm),
                window=attention.window, alibi=attention.alibi, softcap=attention.softcap, relative=self._relative(attention.relative),
            )
        )  # fmt: skip
        return out

    def _relative(self, table: RelativeTable | None) -> Relative | None:
        if table is None:
            return None
        return Relative(WeightSlice(self.names.require(table.name, (table.buckets, table.heads))), table.buckets, table.longest)

    def _consult(self, index: int, cross: Cross, norm: Norm | None) -> str:
        """Attention over the memory; answers with the buffer of the heads' outputs."""
        sizes = cross.sizes
        queries, out = self._buffer("queries", sizes.q_rows), self._buffer("mixed", sizes.q_rows)
        self._linear(self._stream(), norm, cross.q, queries)
        heads = Heads(queries, 0, sizes.head_dim)
        self.ops.append(CrossAttention(index, heads, out, sizes.heads, sizes.kv_heads, sizes.head_dim, cross.scale))
        return out

    def _remember(self, index: int, cross: Cross) -> None:
        """Keys and values of one layer of the decoder that follows."""
        sizes = cross.sizes
        memory = self._buffer("memory", 2 * sizes.kv_rows)
        self.ops.append(Linear(self._stream(), None, (self.names.part(cross.k), self.names.part(cross.v, sizes.kv_rows)), memory))
        k, v = Heads(memory, 0, sizes.head_dim), Heads(memory, sizes.kv_rows, sizes.head_dim)
        self.ops.append(Remember(index, k, v, sizes.kv_heads, sizes.head_dim))

    def _inner(self, feed: FeedForward, norm: Norm | None) -> str:
        """The feed-forward layer up to its last matrix; answers with the buffer of what that reads."""
        gated = len(feed.inputs) == 2
        inner = self._buffer("inner", feed.inputs[0].outputs)
        parts = tuple(self.names.part(matrix) for matrix in feed.inputs)
        self.ops.append(Linear(self._stream(), norm, parts, inner, feed.activation, gated))
        return inner

    def _experts(self, mixture: Mixture, norm: Norm | None) -> None:
        x, router = self._stream(), self.names.matrix(mixture.router)
        gate_up = self.names.require(f"{mixture.experts}.gate_up_proj", (mixture.count, 2 * mixture.width, mixture.size))
        down = self.names.require(f"{mixture.experts}.down_proj", (mixture.count, mixture.size, mixture.width))
        numbers = (mixture.count, mixture.top_k, mixture.normalize)
        self.ops.append(Experts(x, norm, router, gate_up, down, *numbers, x, mixture.activation, accumulate=True))

    def _head(self, head: Head) -> str:
        """The outputs of the wanted rows; answers with their buffer."""
        matrix = None if self._headless(head) else head.matrix
        if matrix is None:
            self._normalize(self._stream(), self.names.norm(head.norm), self._stream())
        for index, cross in enumerate(self.memory):
            self._remember(index, cross)
        hidden = self._buffer("wanted", self.architecture.size)
        self.ops.append(Select(self._stream(), hidden))
        if matrix is None:
            return hidden
        norm = self.names.norm(head.norm)
        if head.dense is not None:
            dense = self._buffer("dense", head.dense.rows)
            self._linear(hidden, norm, head.dense, dense, head.activation)
            hidden, norm = dense, self.names.norm(head.dense_norm)
        logits = self._buffer("logits", matrix.rows)
        part = self._head_part(matrix, tied=head.tied)
        self.ops.append(Linear(hidden, norm, (part,), logits, scale=head.scale, softcap=head.softcap))
        return logits

    def _headless(self, head: Head) -> bool:
        """True where the checkpoint is of the model without the head that it may have."""
        first = head.dense or head.matrix
        return head.optional and first is not None and self.names.find(first.name) is None

    def _head_part(self, matrix: Matrix, *, tied: bool) -> Part:
        embedding = self.architecture.embedding
        return self.names.head(matrix, embedding.token, tied=tied) if isinstance(embedding, Embedding) else self.names.part(matrix)
