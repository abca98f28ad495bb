"""The public surface, and that it costs nothing to import."""

import subprocess
import sys

import pytest

import kbit


def test_public_names() -> None:
    assert sorted(kbit.__all__) == [
        "CalibrationText", "CalibrationWindows", "KbitConfig", "Plan", "QuantizedTensor", "Scheme", "__version__", "advise", "decode",
        "encode", "load", "save",
    ]  # fmt: skip
    assert set(kbit.__all__) <= set(dir(kbit))
    assert all(getattr(kbit, name) is not None for name in kbit.__all__)
    assert kbit.__version__
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        kbit.quantise  # noqa: B018


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, kbit; kbit.Scheme('nf', 4); kbit.QuantizedTensor; print({'torch', 'transformers'} & set(sys.modules))"
    assert run(code) == "set()"


def test_encode_swaps_layers_in_place() -> None:
    code = """
import kbit, torch
model = kbit.encode(torch.nn.Sequential(torch.nn.Linear(32, 32)), "int4:g32", progress=False)
print(type(model[0]).__name__)
"""
    assert run(code) == "KbitLinear"
