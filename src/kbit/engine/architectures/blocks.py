"""Transformer blocks as data: what a layer computes and what its tensors are called, with every number in place.

    each layer:  x ⊕ attention(x)   (x ⊕ attention(x, memory))   x ⊕ feed(x)      ⊕ joins a sublayer to the residual stream, see `Join`

Names are those that transformers gives its parameters; `Architecture.spellings` says how checkpoints differ.
"""

from dataclasses import dataclass
from typing import Literal

from kbit.engine.ops import Activation, Rotary

__all__ = [
    "Cross",
    "FeedForward",
    "HeadPlace",
    "HeadSizes",
    "Join",
    "Layer",
    "Matrix",
    "Mixture",
    "NormLayer",
    "Place",
    "Projections",
    "RelativeTable",
    "SelfAttention",
    "Table",
]


@dataclass(frozen=True, slots=True)
class NormLayer:
    """A norm over `size` numbers and the name of its vectors, `name.weight` and `name.bias`.

    Attributes:
        name: of the module.
        size: length of its vectors.
        kind, eps, plus_one: as in `kbit.engine.ops.Norm`.
        weight: False for a norm without vectors.
        bias: True where `name.bias` is added.
    """

    name: str
    size: int
    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    plus_one: bool = False
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer of `rows` outputs and `cols` inputs.

    Attributes:
        name: of the module.
        rows, cols: of the whole stored matrix.
        bias: True where `name.bias` [rows] is added.
        begin, end: rows that are used, where several layers are stored as one; end -1 means all.
        conv1d: stored [inputs, outputs] while it is not packed (GPT-2's Conv1D).
    """

    name: str
    rows: int
    cols: int
    bias: bool = False
    begin: int = 0
    end: int = -1
    conv1d: bool = False

    @property
    def outputs(self) -> int:
        """Rows that are used."""
        return (self.rows if self.end == -1 else self.end) - self.begin


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding [entries, width]; row r is looked up at `offset` more than its index."""

    name: str
    entries: int
    width: int
    scale: float = 1.0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Sizes of attention: width of the stream, query heads, key and value heads, dimensions of each."""

    size: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def q_rows(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Rows of the key and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def scale(self) -> float:
        """The usual factor of scores, 1 / √head_dim."""
        return float(self.head_dim**-0.5)


@dataclass(frozen=True, slots=True)
class HeadPlace:
    """Head h of a projection lies at `at + h·stride` of the projections' common output."""

    at: int
    stride: int


@dataclass(frozen=True, slots=True)
class Projections:
    """Matrices whose outputs, side by side, hold queries, keys and values; and where in those outputs the heads of each lie."""

    matrices: tuple[Matrix, ...]
    q: HeadPlace
    k: HeadPlace
    v: HeadPlace


@dataclass(frozen=True, slots=True)
class RelativeTable:
    """A table of biases by distance, [buckets, heads]; `longest` as in `kbit.engine.ops.Relative`."""

    name: str
    buckets: int
    heads: int
    longest: int


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Attention of a layer.

    Attributes:
        inputs: queries, keys and values.
        output: from heads·head_dim back to the stream.
        sizes: heads and their dimensions.
        scale, rotary, window, alibi, softcap: as in `kbit.engine.ops.Attention`.
        q_norm, k_norm: over each head, or None.
        relative: bias by distance, or None.
    """

    inputs: Projections
    output: Matrix
    sizes: HeadSizes
    scale: float
    rotary: Rotary | None = None
    window: int | None = None
    alibi: bool = False
    softcap: float | None = None
    q_norm: NormLayer | None = None
    k_norm: NormLayer | None = None
    relative: RelativeTable | None = None


@dataclass(frozen=True, slots=True)
class Cross:
    """Attention of a decoder's layer over the encoder's states, from which `k` and `v` are projected once a text."""

    q: Matrix
    k: Matrix
    v: Matrix
    output: Matrix
    sizes: HeadSizes
    scale: float


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down · activation(up · x), or with two matrices in `inputs`, gate first, down · (activation(gate · x) · (up · x))."""

    inputs: tuple[Matrix, ...]
    output: Matrix
    activation: Activation


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of gated experts.

    Attributes:
        router: [count, stream].
        experts: module with the stacks `gate_up_proj` and `down_proj`.
        count: experts.
        width: inner width of one.
        size: width of the stream.
        top_k, normalize, activation: as in `kbit.engine.ops.Experts`.
    """

    router: Matrix
    experts: str
    count: int
    width: int
    size: int
    top_k: int
    normalize: bool
    activation: Activation


#: see `Join`
Place = Literal["pre", "sandwich", "post", "replace"]


@dataclass(frozen=True, slots=True)
class Join:
    """How a sublayer f joins the residual stream x.

    pre       x += scale · f(norm(x))              GPT-2, Llama
    sandwich  x += after(f(norm(x)))               Gemma 2 and 3
    post      x = norm(x + f(x))                   BERT, OPT-350m
    replace   x = norm(x), then x += f(x)          BLOOM with its residual after the norm
    """

    place: Place
    norm: NormLayer
    after: NormLayer | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One block.

    Attributes:
        attention, feed: sublayers.
        attention_join, feed_join, cross_join: how they join the stream.
        parallel: attention and feed read the same x, and both are added to it (GPT-NeoX, Phi); both joins are `pre` then.
        cross: attention over an encoder's states between the two, or None.
    """

    attention: SelfAttention
    attention_join: Join
    feed: FeedForward | Mixture
    feed_join: Join
    parallel: bool = False
    cross: Cross | None = None
    cross_join: Join | None = None
