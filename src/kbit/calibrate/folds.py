"""Where a factor on a layer's inputs can go so that nothing is stored and nothing runs for it: into what makes those inputs.

    norm            its vectors are divided by the factor            query, key, value · gate, up
    rows of values  v_proj, where no head of values is shared        the output projection
    rows of up      of a gated feed-forward layer                    down

Folds are read off the engine's description of the architecture, so that a model that the engine knows needs nothing here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe
from kbit.engine.architectures.blocks import FeedForward, Join, Layer, Matrix
from kbit.engine.names import spelled

__all__ = ["Fold", "find_folds"]


@dataclass(frozen=True, slots=True)
class Fold:
    """Layers that get one input, and the module before them that a factor on it can be taken out of.

    Attributes:
        source: a norm, or a linear layer of which every output is one of the inputs.
        consumers: the layers, all that read what `source` makes.
        is_norm: whether `source` is a norm.
        plus_one: a norm that multiplies by 1 + weight.
    """

    source: str
    consumers: tuple[str, ...]
    is_norm: bool
    plus_one: bool = False


def find_folds(model: nn.Module) -> list[Fold]:
    """Folds of a transformers model by its modules' names; none for an architecture that the engine does not know."""
    config: Any = getattr(model, "config", None)
    try:
        architecture = describe(_settings(config))
    except ModelError:
        return []
    modules = {name for name, _ in model.named_modules()}
    found = []
    for layer in architecture.layers:
        for fold in _of_layer(layer):
            names = [
                next((one for one in spelled(name, architecture.spellings) if one in modules), None)
                for name in (fold.source, *fold.consumers)
            ]
            if all(names):
                found.append(Fold(str(names[0]), tuple(map(str, names[1:])), fold.is_norm, fold.plus_one))
    return found


def _settings(config: Any) -> Mapping[str, Any]:
    given = config.to_dict() if hasattr(config, "to_dict") else {}
    return {key: value for key, value in given.items() if key != "quantization_config"}


def _of_layer(layer: Layer) -> Iterator[Fold]:
    inputs, feed = layer.attention.inputs.matrices, layer.feed
    fed = feed.inputs if isinstance(feed, FeedForward) else ()
    one_norm = layer.parallel and layer.attention_join.norm.name == layer.feed_join.norm.name
    if not (one_norm and not fed):
        yield from _of_norm(layer.attention_join, (*inputs, *fed) if one_norm else inputs)
    if fed and not one_norm:
        yield from _of_norm(layer.feed_join, fed)
    sizes = layer.attention.sizes
    if len(inputs) == 3 and sizes.heads == sizes.kv_heads:
        yield Fold(inputs[2].name, (layer.attention.output.name,), False)
    if isinstance(feed, FeedForward) and len(feed.inputs) == 2:
        yield Fold(feed.inputs[1].name, (feed.output.name,), False)


def _of_norm(join: Join, consumers: tuple[Matrix, ...]) -> Iterator[Fold]:
    if join.place in ("pre", "sandwich") and join.norm.weight:
        names = dict.fromkeys(matrix.name for matrix in consumers)
        yield Fold(join.norm.name, tuple(names), True, join.norm.plus_one)
