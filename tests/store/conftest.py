"""Hand-made containers: bytes as an attacker would write them, and small sealed models."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.store.header import DTYPES, TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import ModelWriter
from kbit.store.writer import ContainerWriter
from kbit.tensor.blocks import BlockLayout, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor

CONFIG = {"model_type": "llama", "quantization_config": {"quant_method": "kbit"}}


def raw_container(header: bytes | str | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, whatever it says."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def filled(spec: TensorSpec) -> np.ndarray[Any, Any]:
    """Bytes that depend on the name, finite in every dtype."""
    seed = int.from_bytes(spec.name.encode()[-8:], "little")
    return np.random.default_rng(seed).integers(0, 64, spec.shape).astype(DTYPES[spec.dtype])


def sealed_container(path: Path, specs: list[TensorSpec], metadata: Mapping[str, str] | None = None) -> Path:
    with ContainerWriter(path, specs, metadata or {"note": "x"}) as writer:
        for spec in specs:
            writer.write(spec.name, filled(spec))
        writer.finish()
    return path


def small_manifest(**changes: Any) -> Manifest:
    plan = Plan.of("int4:g64")
    modules = {
        "model.layers.0.up_proj": Module(Scheme.parse("nf4:g64"), (20, 96)),
        "model.layers.1.up_proj": Module(Scheme.parse("int3:g32:asym"), (16, 64)),
    }
    return Manifest(plan, modules, **{"base_model": "tiny", "seed": 7, **changes})


def random_tensor(name: str, module: Module) -> QuantizedTensor:
    """A tensor as an encoder would leave it: any codes, finite scales, zeros where rows are padding."""
    generator = np.random.default_rng(len(name) + int.from_bytes(name.encode()[-8:], "little"))
    scheme, (rows, cols) = module.scheme, module.shape
    groups = BlockLayout.of(scheme, rows, cols).groups
    scale = tiles_of_rows(generator.uniform(0.01, 0.1, (rows, groups)).astype(np.float16)).view(np.uint16)
    zero_point = None if scheme.symmetric else tiles_of_rows(generator.integers(0, 2**scheme.bits, (rows, groups)).astype(np.uint8))
    codes = generator.integers(0, 2**scheme.bits, (rows, cols)).astype(np.uint8)
    return QuantizedTensor(scheme, module.shape, pack(codes, scheme.bits), scale, zero_point=zero_point)


PLAIN = [TensorSpec("model.norm.weight", "BF16", (64,)), TensorSpec("model.embed_tokens.weight", "BF16", (50, 64))]


def write_small_model(path: Path, manifest: Manifest | None = None, *, finish: bool = True, **options: Any) -> str | None:
    """A model of two modules and two plain tensors, written through `ModelWriter`."""
    manifest = manifest or small_manifest()
    plain = {spec.name: spec for spec in PLAIN}
    with ModelWriter(path, manifest, PLAIN, binding={"model": "abc"}, **options) as writer:
        for name in writer.pending():
            if name in plain:
                writer.put(name, filled(plain[name]))
            else:
                writer.put_quantized(name, random_tensor(name, manifest.modules[name]))
        return writer.finish(CONFIG) if finish else None


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes to a file and returns its path."""

    def write(data: bytes, name: str = "model.safetensors") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write
