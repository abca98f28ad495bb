"""Whole models as data: what is around their layers.

    x = token (+ position) (+ type) embedding, normalized where the model does
    layers, see `kbit.engine.architectures.blocks`
    head:  logits = matrix · dense(norm(x))

Nothing here has code of its own: entries of `kbit.engine.architectures` make it from a `config.json`, and `kbit.engine.plan` turns it into
operations.
"""

from dataclasses import dataclass

from kbit.engine.architectures.blocks import Layer, Matrix, NormLayer, Table
from kbit.engine.ops import Activation

__all__ = ["Architecture", "Embedding", "EncoderDecoder", "Head", "PatchEmbedding"]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Where the residual stream begins.

    Attributes:
        token: table of the vocabulary.
        position: learned positions, or None.
        waves: frequencies of sinusoidal positions, sines first (see `kbit.engine.ops.Waves`), or None.
        types: token types, of which every row is of the first, or None.
        project: from the table's width to the stream's, before positions are added, or None.
        norm: applied to the sum, or None.
    """

    token: Table
    position: Table | None = None
    types: Table | None = None
    waves: tuple[float, ...] | None = None
    project: Matrix | None = None
    norm: NormLayer | None = None


@dataclass(frozen=True, slots=True)
class PatchEmbedding:
    """Where the residual stream of an image begins: a row for each patch, behind one that is the same for all images.

    Attributes:
        project: a convolution as a matrix [width, channels · height · width of a patch].
        first: table of one entry, the first row.
        position: learned positions, of the first row too.
    """

    project: Matrix
    first: Table
    position: Table


@dataclass(frozen=True, slots=True)
class Head:
    """From the stream to logits: matrix · dense_norm(activation(dense · norm(x))).

    Attributes:
        norm: of the stream, or None.
        matrix: [vocabulary, inputs]; None for a model that answers with norm(x).
        tied: the token embedding stands for a matrix that is not stored.
        dense, activation, dense_norm: a layer between (BERT's transform, OPT's project_out), or None.
        optional: where the checkpoint has no `dense` (or no matrix, if there is no `dense`), the model answers with norm(x).
        scale, softcap: of the logits.
    """

    norm: NormLayer | None
    matrix: Matrix | None = None
    tied: bool = False
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
    embedding: Embedding | PatchEmbedding
    layers: tuple[Layer, ...]
    head: Head
    size: int
    context: int
    causal: bool = True
    spellings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """Two models: layers of the second attend to what the first makes of a whole text.

    Attributes:
        name: model type.
        encoder: not causal, without a head.
        decoder: every layer has a `cross`.
        start: token that the decoder's text begins with, or None.
    """

    name: str
    encoder: Architecture
    decoder: Architecture
    start: int | None
