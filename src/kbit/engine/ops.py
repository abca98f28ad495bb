"""The operations that a plan is a list of: what one forward step does, with every weight, buffer and number resolved.

Operations say what is computed, not how. `kbit.engine.reference` runs them in plain numpy (the oracle), `kbit.engine.program` hands them to
the native step. A step works on rows: one row a token, tokens of any number of sequences side by side, those of one sequence contiguous and
in order. Buffers are fp32 [rows, width], named by the plan.

    x = embed(ids)
    for each layer:  linear(norm(x) → q k v)   attention(q k v → a)   linear(a, + → x)   linear(norm(x) → gate·up)   linear(…, + → x)
    select(x → wanted rows)   linear(norm → logits)
"""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Activation",
    "Attention",
    "Begin",
    "CrossAttention",
    "Embed",
    "EncoderDecoderPlan",
    "Experts",
    "ForwardPlan",
    "Heads",
    "Linear",
    "Norm",
    "Normalize",
    "Op",
    "Part",
    "Relative",
    "Remember",
    "Rotary",
    "Select",
    "Waves",
    "WeightSlice",
]

#: gelu: by erf; gelu_tanh: by the tanh approximation (GPT-2's "gelu_new", BLOOM's, "gelu_pytorch_tanh"); quick_gelu: x·sigmoid(1.702 x)
Activation = Literal["none", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"]


@dataclass(frozen=True, slots=True)
class WeightSlice:
    """Rows of a stored matrix: all of them, or [begin, end).

    Attributes:
        name: the module that holds it, such as ``model.layers.0.mlp.up_proj`` (for a packed module, its name in the manifest; for one left
            in 16 bits, the tensor ``name.weight``). A parameter that is no module's weight is named in full.
        begin, end: rows; end -1 means all of them.
        transposed: the stored matrix is [inputs, outputs] (GPT-2's Conv1D left in 16 bits); a packed one never is.
    """

    name: str
    begin: int = 0
    end: int = -1
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalization over the last dimension, in fp32.

    Attributes:
        kind: ``rms``: x / sqrt(mean(x²) + eps) · w; ``layer``: (x − mean) / sqrt(var + eps) · w + b.
        weight: name of the stored vector; None for a norm without one.
        bias: name of the stored vector, or None.
        eps: added under the root.
        plus_one: the stored weight is w − 1 (Gemma).
    """

    kind: Literal["rms", "layer"]
    weight: str | None
    bias: str | None = None
    eps: float = 1e-5
    plus_one: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """Rows of a table: out[r] (+)= scale · table[index(r)].

    Attributes:
        table: [entries, width].
        out: buffer written.
        source: index of row r: its ``token``, its ``position`` in the sequence, or its ``type`` (token types: 0 for every row).
        scale: factor.
        offset: added to the index (OPT's and RoBERTa's positions begin at 2).
        accumulate: add to `out` instead of writing it.
    """

    table: WeightSlice
    out: str
    source: Literal["token", "position", "type"] = "token"
    scale: float = 1.0
    offset: int = 0
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """out[r] = the one row of `table` for each row at position 0 of its sequence; other rows stay (ViT's class token)."""

    table: WeightSlice
    out: str


@dataclass(frozen=True, slots=True)
class Waves:
    """Sinusoidal positions: out[r] (+)= [sin(p·f) for f in frequencies] + [cos(p·f) for f in frequencies], p the position of row r.

    Attributes:
        frequencies: radians a position; half as many as `out` is wide.
        out: buffer written.
        accumulate: add to `out` instead of writing it.
    """

    frequencies: tuple[float, ...]
    out: str
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class Normalize:
    """out (+)= norm(source). `out` may be `source`."""

    source: str
    out: str
    norm: Norm
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix of a `Linear`: its output goes to columns [at, at + rows) of the out buffer."""

    weight: WeightSlice
    bias: str | None = None
    at: int = 0


@dataclass(frozen=True, slots=True)
class Linear:
    """Matrices that read one input in one pass.

    y_i = W_i · norm(source) + b_i for each part. Not gated: out[:, at_i …] (+)= scale · activation(y_i). Gated, with exactly two parts of
    equally many rows, gate first: out (+)= scale · activation(y_0) · y_1, and `at` has no part in it.

    Attributes:
        source: input buffer.
        norm: applied to the input first; None for none.
        parts: the matrices.
        out: buffer written.
        activation: of each output, or of the gate.
        gated: see above.
        accumulate: add to `out` (the residual) instead of writing it.
        scale: factor of what is written (residual and logit multipliers).
        softcap: c·tanh(y / c) on what is written, or None.
    """

    source: str
    norm: Norm | None
    parts: tuple[Part, ...]
    out: str
    activation: Activation = "none"
    gated: bool = False
    accumulate: bool = False
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """Where the heads of a projection lie: head h of row r is buffer[r, at + h·stride … + head_dim)."""

    buffer: str
    at: int
    stride: int


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding of the first `2·len(frequencies)` dimensions of each head.

    Attributes:
        frequencies: inverse frequencies, radians a position.
        interleaved: pairs are dimensions (2i, 2i + 1) (GPT-J); else (i, i + dims/2) (NeoX, Llama).
        factor: of cos and sin (YaRN's attention factor).
    """

    frequencies: tuple[float, ...]
    interleaved: bool = False
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Relative:
    """A learned bias of scores by how far a key stands from its query (Raffel et al. 2020, T5).

    Short distances have a bucket each, longer ones share one with more and more others, up to `longest`, from where all share the last.

    Attributes:
        table: [buckets, heads].
        buckets: rows of the table. Where attention goes both ways, the upper half is for keys after the query.
        longest: see above.
    """

    table: WeightSlice
    buckets: int
    longest: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention of each row over the keys and values of its sequence, its own and all earlier ones (or all, if not causal).

    For each row: keys and values of the row are normalized, rotated and stored in the cache at its position; then for each query head h,
    with kv head h // (heads / kv_heads): out[h] = softmax(scale · q·K + bias) · V.

    Attributes:
        layer: index of the cache's layer.
        q, k, v: where the projections lie.
        out: buffer [rows, heads·head_dim].
        heads, kv_heads, head_dim: sizes.
        scale: of the scores.
        causal: False lets a row see the whole of its sequence's rows in this step (encoders; nothing is cached across steps).
        rotary: rotation of q and k, or None.
        q_norm, k_norm: norms over each head before the rotation, or None.
        window: a row sees the last `window` positions, itself included; None for all.
        alibi: add slope[h] · (key position − query position), slopes as in BLOOM (Press et al. 2022).
        softcap: c·tanh(score / c) before the softmax, or None.
        relative: bias by distance, or None.
    """

    layer: int
    q: Heads
    k: Heads
    v: Heads
    out: str
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool = True
    rotary: Rotary | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    window: int | None = None
    alibi: bool = False
    softcap: float | None = None
    relative: Relative | None = None


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep keys and values of the rows as their sequence's memory, for the decoder that the sequence is encoded for.

    Attributes:
        layer: index of the decoder's layer that will read them.
        k, v: where the projections lie.
        kv_heads, head_dim: sizes.
    """

    layer: int
    k: Heads
    v: Heads
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Attention of each row over the whole memory of its sequence: as `Attention`, without positions, cache or mask.

    Attributes:
        layer: index that the memory's keys and values were kept under.
        q: where the queries lie.
        out: buffer [rows, heads·head_dim].
        heads, kv_heads, head_dim, scale: as in `Attention`.
    """

    layer: int
    q: Heads
    out: str
    heads: int
    kv_heads: int
    head_dim: int
    scale: float


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: out[r] (+)= Σ_e p_e · down_e · (activation(gate_e · z) · (up_e · z)) over the top experts, z = norm(source[r]).

    p = softmax(router · z); the `top_k` largest are taken (ties to the lower index), and divided by their sum where `normalize` is set.
    The sum over experts runs from the most to the least likely one.

    Attributes:
        source: input buffer.
        norm: applied to the input first.
        router: [experts, inputs].
        gate_up: stack [experts, 2·width, inputs], gate rows first.
        down: stack [experts, outputs, width].
        top_k: experts a row.
        normalize: see above.
        activation: of the gate.
        out: buffer written or added to.
        accumulate: add to `out`.
    """

    source: str
    norm: Norm | None
    router: WeightSlice
    gate_up: str
    down: str
    experts: int
    top_k: int
    normalize: bool
    out: str
    activation: Activation = "silu"
    accumulate: bool = True


@dataclass(frozen=True, slots=True)
class Select:
    """out[i] = source[wanted[i]]: from here on, rows are those whose outputs were asked for."""

    source: str
    out: str


Op = Embed | Begin | Waves | Normalize | Linear | Attention | Remember | CrossAttention | Experts | Select


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """A whole forward step.

    Attributes:
        ops: in order; after the `Select` they work on the wanted rows.
        buffers: name → width in floats.
        result: the buffer that holds the step's answer: logits [wanted, vocabulary], or hidden states for a model without a head.
        vocabulary: entries of the token embedding; 0 where rows are not tokens.
        context: positions that the model knows; 0 for no limit of its own.
        layers: attention layers, the layers of the cache.
        kv_heads, head_dim: of the cache; equal in all layers.
        causal: False for encoders: a sequence's rows must all come in one step.
        architecture: name of the entry in `kbit.engine.architectures` that made it.
        input: buffer that a step's own rows of numbers are put into; None where rows are tokens.
    """

    ops: tuple[Op, ...]
    buffers: dict[str, int]
    result: str
    vocabulary: int
    context: int
    layers: int
    kv_heads: int
    head_dim: int
    causal: bool
    architecture: str
    input: str | None = None


@dataclass(frozen=True, slots=True)
class EncoderDecoderPlan:
    """Two plans: a text is encoded in one step, whose `Remember` operations leave a memory; then the decoder's steps read it.

    Attributes:
        encoder: answers with hidden states.
        decoder: answers with logits.
        start: token that the decoder's text begins with; None where the configuration has none.
    """

    encoder: ForwardPlan
    decoder: ForwardPlan
    start: int | None
