"""Other tools' ways of keeping linear weights, decoded into the same model, so that one scorer scores them all.

llama.cpp      its types by `ggml_quantize_chunk` of the library that llama-cpp-python builds, under an importance matrix of the
               calibration text; in the environment that `benchmarks/peers/setup llama_cpp` makes
bitsandbytes   NF4 by the package: blocks of 64, their extremes in fp32, or in 8 bits under fp32 (double)
HQQ            by the package where there is one (`hqq`); else kbit's own, as the row says
GPTQ           as published: linear, asymmetric, groups of 128 decided on the way, columns from left to right, nothing refined
"""

import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate import CalibrationWindows, sequential
from kbit.calibrate.importance import gather_importance
from kbit.core.scheme import KEEP, Scheme
from kbit.encoders import gptq
from kbit.model.load import load_ordinary
from kbit.nn.targets import Target, find_targets
from peers.catalogue import ENGINES

__all__ = ["GGML_TYPES", "NF4", "Linears", "ggml_missing", "ggml_type", "hqq_missing", "hqq_package", "nf4", "plain_gptq"]

Float32 = NDArray[np.float32]

GGML_TYPES = (
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K",
    "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0",
)  # fmt: skip
#: double → bits a weight: the extreme of each block of 64 in fp32, or in 8 bits with an fp32 for 256 blocks
NF4 = {False: 4 + 32 / 64, True: 4 + 8 / 64 + 32 / (64 * 256)}
_HERE = Path(__file__).resolve().parent
_SECONDS = 1800


class Linears:
    """The linear weights of a model, by name.

    Args:
        folder: of the model.
        windows: that the importance is taken over.
        work: folder for files.
    """

    def __init__(self, folder: Path, windows: CalibrationWindows, work: Path) -> None:
        self._folder, self._windows, self._work = folder, windows, work

    def decoded(self, decode: Callable[[str, Float32], Float32]) -> nn.Module:
        """The model with `decode(name, weights)` in place of each weight."""
        model = load_ordinary(self._folder, dtype=torch.float32).eval()
        for target in _targets(model):
            parameter = model.get_parameter(target.parameter)
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(decode(target.name, parameter.detach().numpy()))))
        return model

    def file(self) -> Path:
        """Weights and importance as the worker of ggml takes them."""
        path = self._work / "linears.npz"
        if not path.exists():
            model = load_ordinary(self._folder, dtype=torch.float32).eval()
            targets = _targets(model)
            found = gather_importance(model, targets, self._windows)
            arrays = {target.name: model.get_parameter(target.parameter).detach().numpy() for target in targets}
            np.savez(path, **arrays, **{f"{name}/importance": found.of(name, array.shape) for name, array in arrays.items()})
        return path


def _targets(model: nn.Module) -> list[Target]:
    found = find_targets(model, lambda _, kind: Scheme.parse("int8+imp") if kind == "linear" else KEEP)[0]
    assert not any(target.transposed for target in found)
    return found


def ggml_missing() -> str | None:
    """Why llama.cpp's types cannot be had, if they cannot."""
    return ENGINES["llama_cpp"].missing()


def ggml_type(linears: Linears, kind: str, work: Path) -> tuple[nn.Module, float]:
    """(the model with all linear weights of a type, bits a weight)."""
    engine, path = ENGINES["llama_cpp"], work / "ggml.npz"
    command = [str(engine.python), str(_HERE / "peers" / "ggml_types.py"), str(linears.file()), kind, str(path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS, env=engine.environment(1))
    with np.load(path) as arrays:
        return linears.decoded(lambda name, _: arrays[name]), float(run.stdout.split()[-1])


def nf4(linears: Linears, double: bool) -> tuple[nn.Module, float]:
    """NF4 of bitsandbytes."""
    from bitsandbytes import functional

    def decode(_: str, weights: Float32) -> Float32:
        packed, state = functional.quantize_4bit(torch.from_numpy(weights), blocksize=64, quant_type="nf4", compress_statistics=double)
        values: Float32 = functional.dequantize_4bit(packed, state).float().numpy()
        return values

    return linears.decoded(decode), NF4[double]


def hqq_missing() -> str | None:
    """Why HQQ's package cannot be had, if it cannot."""
    return None if importlib.util.find_spec("hqq") else "package hqq is not installed"


def hqq_package(linears: Linears, bits: int, group: int) -> tuple[nn.Module, float]:
    """HQQ by its package: groups along the inputs, fp16 scale and zero point."""
    from hqq.core.quantize import Quantizer  # type: ignore[import-not-found]

    def decode(_: str, weights: Float32) -> Float32:
        tensor = torch.from_numpy(weights.copy())
        packed, meta = Quantizer.quantize(tensor, nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32)
        values: Float32 = Quantizer.dequantize(packed, meta).float().reshape(weights.shape).numpy()
        return values

    return linears.decoded(decode), bits + 32 / group


@contextmanager
def plain_gptq() -> Iterator[None]:
    """GPTQ as published, while the context lasts."""
    published = partial(gptq.encode_gptq, multipliers=(), rounds=0)
    with (
        patch.object(sequential, "encode_gptq", published),
        patch.object(gptq, "column_order", lambda diagonal, _: np.arange(len(diagonal))),
    ):
        yield
