"""`KbitHfQuantizer`: what transformers calls while it loads, saves and decodes a k-bit model.

    from_pretrained of a 16-bit folder   find the layers → encode each weight as it is read            (`kbit.hf.encoding`)
    from_pretrained of a k-bit folder    read the seal → empty packed layers → transformers fills them   (`kbit.hf.stored`)
    … with dequantize=True               the same, then every packed layer becomes an ordinary one
    save_pretrained                      the arrays by name, each tied weight once, then the seal        (`kbit.hf.saving`)

One object serves one call of `from_pretrained` and stays with its model.
"""

from collections.abc import Container
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from kbit.calibrate import CALIBRATION_ATTRIBUTE
from kbit.core.errors import ModelError, SchemeError
from kbit.core.installation import package_version
from kbit.core.plan import Plan
from kbit.hf.config import QUANT_METHOD, KbitConfig
from kbit.hf.encoding import EncodeOnLoad, Encoding
from kbit.hf.saving import sealed_save
from kbit.hf.stored import StoredWeights
from kbit.hf.ties import adjust_bias, packed_groups, packed_layer
from kbit.nn.swap import unswap
from kbit.nn.targets import packed_kind
from kbit.store.manifest import Manifest, Module

__all__ = ["KbitHfQuantizer", "attach"]

_PLACED_BY_LOADER = ("auto", "balanced", "balanced_low_0", "sequential")


@register_quantizer(QUANT_METHOD)
class KbitHfQuantizer(HfQuantizer):  # type: ignore[misc]
    """The transformers side of the plug-in; users meet `KbitConfig` only."""

    requires_calibration = False

    def __init__(self, quantization_config: KbitConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._work: Encoding | StoredWeights | None = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse what cannot work, before any weight is touched.

        Raises:
            SchemeError: no scheme for a 16-bit model, `dequantize` of one, or another scheme than the stored one.
            ModelError: a device map that leaves the CPU.
        """
        config = self.quantization_config
        requested = config.requested_plan
        if self.pre_quantized and requested is not None and requested != config.plan:
            raise SchemeError(
                f"the folder holds {_text(config.plan)}, and {_text(requested)} was asked for: expected the same, "
                f"or KbitConfig() without a scheme; encode the 16-bit model for another one"
            )
        if config.plan is None:
            raise SchemeError("KbitConfig without a scheme loads k-bit folders: expected a scheme such as KbitConfig('nf4:g64') here")
        if config.dequantize and not self.pre_quantized:
            raise SchemeError("dequantize=True decodes a k-bit folder: this folder is not encoded; load it without quantization_config")
        for device in device_map.values() if isinstance(device_map, dict) else ():
            if str(device) != "cpu":
                raise ModelError(f"kbit's kernels run on the CPU: expected device_map='cpu' or none, got {device!r}")

    def update_device_map(self, device_map: Any) -> Any:
        """``"auto"`` means the best device there is for this method: the CPU."""
        return {"": "cpu"} if device_map in _PLACED_BY_LOADER else device_map

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """True for a weight that is encoded while it is loaded."""
        return isinstance(self._work, Encoding) and self._work.needs(param_name)

    def get_quantize_ops(self) -> EncodeOnLoad:
        """The conversion that encodes."""
        assert isinstance(self._work, Encoding)
        return EncodeOnLoad(self._work)

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Arrays to save, each tied weight once. The seal is made later, from the saved files."""
        state = model.state_dict()
        for alias in (alias for others in packed_groups(model).values() for alias in others):
            for part in packed_layer(model, alias).part_names:
                del state[f"{alias}.{part}"]
        return state, {}

    def is_serializable(self) -> bool:
        """`save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradient."""
        return False

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any) -> Any:
        config = self.quantization_config
        assert config.plan is not None
        model._adjust_bias = adjust_bias
        if self.pre_quantized:
            self._work = StoredWeights(model, checkpoint_files or (), config.plan, config.mode)
        else:
            self._work = Encoding(model, config.plan, config.mode)
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        assert self._work is not None
        self._work.finish(model)
        self.quantization_config.requested_plan = None
        if self.quantization_config.dequantize:
            return _decode(model, model.config.dtype)
        _hook(model)
        return model

    def remove_quantization_config(self, model: Any) -> None:
        """Take everything of the plug-in off a model that holds no packed weight any more."""
        super().remove_quantization_config(model)
        for name in ("save_pretrained", "_adjust_bias"):
            model.__dict__.pop(name, None)

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        return _decode(model, dtype or model.config.dtype)

    def manifest(self, model: Any, names: Container[str]) -> Manifest:
        """What a saved folder of `model` with tensors `names` says of itself."""
        modules: dict[str, Module] = {}
        ties: dict[str, str] = {}
        for name, others in packed_groups(model).items():
            layer = packed_layer(model, name)
            modules[name] = Module(layer.scheme, layer.packed_shape, packed_kind(model, layer))
            ties |= dict.fromkeys(others, name)
        packed = {f"{name}.weight" for name in ties}
        plain = {alias: owner for alias, owner in model.all_tied_weights_keys.items() if alias not in packed}
        ties |= {alias: owner for alias, owner in plain.items() if alias not in names and owner in names}
        before = self._work.manifest if isinstance(self._work, StoredWeights) else None
        if before is not None:
            return replace(before, modules=modules, ties=ties, kbit_version=package_version())
        source = Path(model.config.name_or_path)
        digest, seed = getattr(model, CALIBRATION_ATTRIBUTE, (None, 0))
        base = source.name if source.is_dir() else str(source)
        return Manifest(self.quantization_config.plan, modules, ties, base, calibration_digest=digest, seed=seed)


def attach(model: Any) -> None:
    """Make a model of transformers, packed in place by `kbit.encode`, one of this plug-in: it saves, and decodes, as a loaded one does."""
    settings = model.config.quantization_config
    config = settings if isinstance(settings, KbitConfig) else KbitConfig.from_dict(settings)
    model.config.quantization_config = config
    model.hf_quantizer = KbitHfQuantizer(config)
    model.is_quantized, model.quantization_method = True, QUANT_METHOD
    _hook(model)


def _hook(model: Any) -> None:
    model._adjust_bias = adjust_bias
    # the arrays are saved under the names they have here: a packed weight cannot be split or transposed back into others
    model._weight_conversions = []
    model.save_pretrained = partial(sealed_save, model)  # not a closure: a copy of the model saves the copy


def _decode(model: Any, dtype: torch.dtype | str) -> Any:
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype  # saving writes it into the configuration as a text
    unswap(model, dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def _text(plan: Plan | None) -> str:
    return "no scheme" if plan is None else plan.default.text
