"""`KbitConfig`: what `from_pretrained` is told, and what `config.json` keeps under ``quantization_config``.

    {"quant_method": "kbit", "version": 1,
     "default": "nf4:g64", "embedding": "16", "head": "16", "rules": [[pattern, scheme], …], "skip": [pattern, …]}

The plan's own keys (`kbit.core.plan.Plan.to_json`) stand beside two fixed ones. How a model is run (``mode``, ``dequantize``) is
a matter of each load: both keys are written only when they differ from their defaults.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self, get_args

from transformers.quantizers import auto
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.registry import suggest
from kbit.core.scheme import Scheme
from kbit.core.shown import shown

__all__ = ["CONFIG_VERSION", "QUANT_METHOD", "KbitConfig", "Mode"]

QUANT_METHOD = "kbit"
CONFIG_VERSION = 1

Mode = Literal["fast", "exact"]

_PLAN_KEYS = ("default", "embedding", "head", "rules", "skip")
_LOAD_KEYS = ("mode", "dequantize")
_KNOWN = ("quant_method", "version", *_PLAN_KEYS, *_LOAD_KEYS)
_ARGUMENTS = ("scheme", "embedding", "head", "rules", "modules_to_not_convert", "dequantize", "mode")

#: arguments of other plug-ins, and what says the same here
_FOREIGN = {
    "load_in_4bit": "KbitConfig('nf4:g64')",
    "load_in_8bit": "KbitConfig('int8:g64')",
    "bnb_4bit_quant_type": "KbitConfig('nf4:g64') or KbitConfig('float4:g64')",
    "bnb_4bit_use_double_quant": "KbitConfig('nf4:g64:dq8')",
    "bits": "the scheme's own bits: KbitConfig('int4:g128')",
    "group_size": "the scheme's own group: KbitConfig('int4:g128')",
    "sym": "the scheme's own option: KbitConfig('int4:g128:asym')",
}


@register_quantization_config(QUANT_METHOD)
class KbitConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """Recipe and loading options of a k-bit model in transformers.

    Args:
        scheme: data type of the linear layers: a text (``"nf4:g64"``), a `Scheme`, or a whole `Plan` (then the five next arguments
            stay at their defaults). None where a stored k-bit model is loaded and only `dequantize` or `mode` is asked for.
        embedding: scheme of the embeddings; ``"16"`` leaves them as they are.
        head: scheme of the output head; a head tied to the embedding follows the embedding.
        rules: ``(pattern, scheme)`` pairs; the first pattern (a regular expression searched in the module's name) that matches decides.
        modules_to_not_convert: modules left as they are: names or regular expressions that match whole parts of the dotted name
            (``"layers.1"`` is not ``"layers.11"``).
        dequantize: load a stored k-bit model into ordinary modules.
        mode: arithmetic of the kernels, ``"fast"`` (int8 activations) or ``"exact"`` (float32 activations in fixed order);
            None: as the stored configuration says, else ``"fast"``.

    Raises:
        SchemeError: a text, pattern, key or option that cannot be understood, with the closest known word.
    """

    quant_method = QUANT_METHOD

    def __init__(
        self,
        scheme: Plan | Scheme | str | None = None,
        *,
        embedding: Scheme | str = "16",
        head: Scheme | str = "16",
        rules: Iterable[tuple[str, Scheme | str]] = (),
        modules_to_not_convert: Iterable[str] | None = None,
        dequantize: bool = False,
        mode: Mode | None = None,
        **unknown: object,
    ) -> None:
        _refuse(unknown)
        if not isinstance(dequantize, bool):
            raise SchemeError(f"dequantize must be true or false, got {dequantize!r}")
        if mode is not None and mode not in get_args(Mode):
            raise SchemeError(f"mode must be 'fast' or 'exact', got {mode!r}")
        self.quant_method = QUANT_METHOD
        self.plan = _plan(scheme, embedding, head, rules, modules_to_not_convert)
        self.dequantize = dequantize
        self._mode = mode
        #: plan that `from_pretrained` was asked for where the folder already holds k-bit tensors
        self.requested_plan: Plan | None = None

    @property
    def mode(self) -> Mode:
        """Arithmetic of the kernels."""
        return self._mode or "fast"

    @mode.setter
    def mode(self, value: Mode) -> None:
        self._mode = value

    @property
    def modules_to_not_convert(self) -> list[str]:
        """The plan's skip patterns."""
        return [] if self.plan is None else list(self.plan.skip)

    def get_loading_attributes(self) -> dict[str, Any]:
        """What an argument of `from_pretrained` changes of a stored configuration: what was given, and the plan to be compared."""
        given = {"dequantize": self.dequantize or None, "mode": self._mode, "requested_plan": self.plan}
        return {name: value for name, value in given.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_dict`."""
        value: dict[str, Any] = {"quant_method": QUANT_METHOD, "version": CONFIG_VERSION}
        if self.plan is not None:
            value |= self.plan.to_json()
        if self.mode != "fast":
            value["mode"] = self.mode
        if self.dequantize:
            value["dequantize"] = True
        return value

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Configuration from its JSON object.

        Raises:
            SchemeError: unknown keys, another method or version, or values that `Plan` refuses.
        """
        if not isinstance(config_dict, Mapping):
            raise SchemeError(f"a k-bit configuration is a JSON object, got {type(config_dict).__name__}")
        for key in config_dict:
            if key not in _KNOWN:
                raise SchemeError(f"unknown key {shown(key)} in a k-bit quantization_config: {suggest(str(key), _KNOWN)}")
        if config_dict.get("quant_method", QUANT_METHOD) != QUANT_METHOD:
            raise SchemeError(f"quant_method must be {QUANT_METHOD!r}, got {shown(config_dict['quant_method'])}")
        version = config_dict.get("version")
        if version != CONFIG_VERSION or isinstance(version, bool):
            raise SchemeError(f"quantization_config version {shown(version)} is not readable here; expected {CONFIG_VERSION}")
        plan = {key: config_dict[key] for key in _PLAN_KEYS if key in config_dict}
        options = {key: config_dict[key] for key in _LOAD_KEYS if key in config_dict}
        config = cls(Plan.from_json(plan) if plan else None, **options)
        return (config, kwargs) if return_unused_kwargs else config

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.to_dict().items()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KbitConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.plan, self.dequantize, self.mode))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # every attribute is an immutable value


def _plan(
    scheme: Plan | Scheme | str | None,
    embedding: Scheme | str,
    head: Scheme | str,
    rules: Iterable[tuple[str, Scheme | str]],
    skip: Iterable[str] | None,
) -> Plan | None:
    rest = (tuple(rules), tuple(skip or ()))
    alone = (str(embedding), str(head), *rest) == ("16", "16", (), ())
    if scheme is None or isinstance(scheme, Plan):
        if not alone:
            raise SchemeError(
                "embedding, head, rules and modules_to_not_convert go with a scheme, such as KbitConfig('nf4:g64', head='int8')"
            )
        return scheme
    if isinstance(skip, str):
        raise SchemeError(f"modules_to_not_convert is a list of names, got the text {skip!r}")
    return Plan(
        default=_scheme(scheme),
        embedding=_scheme(embedding),
        head=_scheme(head),
        rules=tuple((pattern, _scheme(each)) for pattern, each in rest[0]),
        skip=tuple(rf"(?:^|\.)(?:{name})(?:\.|$)" for name in rest[1]),
    )


def _scheme(value: Scheme | str) -> Scheme:
    return value if isinstance(value, Scheme) else Scheme.parse(value)


def _refuse(unknown: Mapping[str, object]) -> None:
    for name in unknown:
        if name in _FOREIGN:
            raise SchemeError(f"KbitConfig takes no {name!r}: say {_FOREIGN[name]}")
        raise SchemeError(f"KbitConfig takes no {name!r}: {suggest(name, _ARGUMENTS)}")


# transformers lets an argument change a stored configuration only for the classes of this tuple (version 5; there is no hook to join it)
auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, KbitConfig)
