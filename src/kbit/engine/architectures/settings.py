"""`Settings`: a `config.json` read key by key, each typed and bounded, so that what the engine does not do is refused by name."""

from collections.abc import Mapping
from typing import Any

from kbit.core.errors import ModelError
from kbit.core.registry import suggest
from kbit.engine.ops import Activation

__all__ = ["ACTIVATIONS", "Settings"]

#: transformers' name of an activation → the engine's
ACTIVATIONS: Mapping[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

#: larger sizes are no model's, and would overflow somewhere below
_LARGEST = (1 << 31) - 1
#: more layers than any model has: an architecture has an object for each
_MOST_LAYERS = 4096


class Settings:
    """Typed access to a configuration.

    A key may be given as several names, the first of which that is there counts (`n_embd` and `hidden_size`). `null` counts as absent but
    for the optional ones, where it says that there is none. Without a default a key must be there.

    Args:
        values: the JSON object.
        name: of the model type, for messages; of a nested object, its path.
        context: positions that the caller means to use; None for the model's own choice.
    """

    def __init__(self, values: Mapping[str, Any], name: str, context: int | None = None) -> None:
        self.values, self.name, self.context = values, name, context

    def has(self, *keys: str) -> bool:
        """True where one of `keys` is there, were it `null`."""
        return any(key in self.values for key in keys)

    def raw(self, *keys: str) -> Any:
        """The value of the first of `keys` that is there, or None."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def error(self, keys: tuple[str, ...], expected: str, got: object) -> ModelError:
        """The refusal of a key's value."""
        return ModelError(f"{self.name}: {' or '.join(map(repr, keys))}: expected {expected}, got {got!r:.80}")

    def integer(self, *keys: str, default: int | None = None, least: int = 1, most: int = _LARGEST) -> int:
        """An integer in `least`…`most`."""
        value = self.raw(*keys)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.error(keys, f"an integer in {least}…{most}", value)
        return value

    def layers(self, *keys: str) -> range:
        """Indices of the layers, whose number is under one of `keys`, `num_hidden_layers` unless told."""
        return range(self.integer(*(keys or ("num_hidden_layers",)), most=_MOST_LAYERS))

    def optional_integer(self, *keys: str, default: int | None = None, least: int = 1) -> int | None:
        """An integer, or None for `null`; the default only where the key is absent."""
        if not self.has(*keys):
            return default
        return None if self.raw(*keys) is None else self.integer(*keys, least=least)

    def number(self, *keys: str, default: float | None = None, above: float = 0.0) -> float:
        """A finite number above `above`."""
        value = self.raw(*keys)
        if value is None and default is not None:
            return default
        if not _is_number(value) or value <= above:
            raise self.error(keys, f"a number above {above:g}", value)
        return float(value)

    def optional_number(self, *keys: str, default: float | None = None, above: float = 0.0) -> float | None:
        """A number, or None for `null`; the default only where the key is absent."""
        if not self.has(*keys):
            return default
        return None if self.raw(*keys) is None else self.number(*keys, above=above)

    def flag(self, *keys: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(*keys)
        if value is not None and type(value) is not bool:
            raise self.error(keys, "true or false", value)
        return default if value is None else value

    def text(self, *keys: str, default: str) -> str:
        """A text."""
        value = self.raw(*keys)
        if value is not None and not isinstance(value, str):
            raise self.error(keys, "a text", value)
        return default if value is None else value

    def activation(self, *keys: str, default: str) -> Activation:
        """An activation by transformers' name."""
        value = default if (value := self.raw(*keys)) is None else value
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.error(keys, f"an activation ({suggest(str(value), ACTIVATIONS)})", value)
        return ACTIVATIONS[value]

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` positive numbers."""
        value = self.raw(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(item) and item > 0 for item in value):
            raise self.error((key,), f"a list of {count} positive numbers", value)
        return tuple(float(item) for item in value)

    def indices(self, key: str) -> frozenset[int]:
        """A set of layer indices; empty where there is none."""
        value = self.raw(key)
        if value is not None and (not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value)):
            raise self.error((key,), "a list of layer indices", value)
        return frozenset(value or ())

    def words(self, key: str, count: int, known: tuple[str, ...]) -> tuple[str, ...] | None:
        """A list of `count` words out of `known`, or None where there is none."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or any(item not in known for item in value):
            raise self.error((key,), f"a list of {count} of {', '.join(known)}", value)
        return tuple(value)

    def nested(self, key: str) -> "Settings | None":
        """A nested object, or None where there is none."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error((key,), "an object", value)
        return Settings(value, f"{self.name}: {key}")

    def only(self, key: str, expected: bool | int | float | str | None) -> None:
        """Refuse an option with any other value than the one the engine does; absent counts as that value."""
        value = self.raw(key)
        if value is not None and value != expected:
            raise self.error((key,), "no value" if expected is None else repr(expected), value)


def _is_number(value: object) -> bool:
    """An integer or a float that float32 holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38
