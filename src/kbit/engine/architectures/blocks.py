"""Transformer blocks as data: what a model computes and what its tensors are called, with every number in place.

    x = token (+ position) (+ type) embedding, normalized where the model does
    each layer:  x ⊕ attention(x)   x ⊕ feed(x)      ⊕ joins a sublayer f to the residual stream, see `Join`
    head:        logits = matrix · dense(norm(x))

An `Architecture` has no code of its own: entries of `kbit.engine.architectures` make one from a `config.json`, and `kbit.engine.plan` turns
it into operations. Names are those that transformers gives its parameters; `Architecture.spellings` says how checkpoints differ.
"""

from dataclasses import dataclass
from typing import Literal

from kbit.engine.ops import Activation, Rotary

__all__ = [
    "Architecture",
    "Embedding",
    "FeedForward",
    "Head",
    "HeadPlace",
    "HeadSizes",
    "Join",
    "Layer",
    "Matrix",
    "Mixture",
    "NormLayer",
    "Place",
    "Projections",
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
class Embedding:
    """Where the residual stream begins.

    Attributes:
        token: table of the vocabulary.
        position: learned positions, or None.
        types: token types, of which every row is of the first, or None.
        project: from the table's width to the stream's, before positions are added, or None.
        norm: applied to the sum, or None.
    """

    token: Table
    position: Table | None = None
    types: Table | None = None
    project: Matrix | None = None
    norm: NormLayer | None = None


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
class SelfAttention:
    """Attention of a layer.

    Attributes:
        inputs: queries, keys and values.
        output: from heads·head_dim back to the stream.
        sizes: heads and their dimensions.
        scale, rotary, window, alibi, softcap: as in `kbit.engine.ops.Attention`.
        q_norm, k_norm: over each head, or None.
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
    """One block. `parallel`: both sublayers read the same x, and both are added to it (GPT-NeoX, Phi); both joins are `pre` then."""

    attention: SelfAttention
    attention_join: Join
    feed: FeedForward | Mixture
    feed_join: Join
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """From the stream to logits: matrix · dense_norm(activation(dense · norm(x))).

    Attributes:
        norm: of the stream, or None.
        matrix: [vocabulary, inputs].
        tied: the token embedding stands for a matrix that is not stored.
        dense, activation, dense_norm: a layer between (BERT's transform, OPT's project_out), or None.
        optional: without `dense` in the checkpoint the model answers with its hidden states.
        scale, softcap: of the logits.
    """

    norm: NormLayer | None
    matrix: Matrix
    tied: bool
    dense: Matrix | None = None
    activation: Activation = "none"
    dense_norm: NormLayer | None = None
    optional: bool = False
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole model.

    Attributes:
        name: model type.
        embedding, layers, head: see their classes.
        size: width of the residual stream.
        context: positions that it knows; 0 for no limit of its own.
        causal: False for encoders.
        spellings: (usual, other) parts of names: a tensor that is not stored under its name is looked for with the one put for the other.
    """

    name: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    head: Head
    size: int
    context: int
    causal: bool = True
    spellings: tuple[tuple[str, str], ...] = ()
