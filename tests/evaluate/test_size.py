import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kbit.evaluate.size import memory_size, stored_size
from kbit.model import load, quantize_folder
from kbit.nn.packed import PackedModule
from kbit.nn.swap import swap
from kbit.store.accounting import PACKED_PARTS
from kbit.store.folder import open_model

Folder = Callable[..., Path]


@pytest.mark.parametrize("scheme", ["nf4:g64", "int3:g32:asym", "kmeans3:g-1", "float5:g16:e4m3", "int7:g64:dq8"])
def test_every_stored_bit_is_counted_once(tiny_folder: Folder, tmp_path: Path, scheme: str) -> None:
    quantize_folder(tiny_folder(), tmp_path / "packed", scheme, progress=False)
    report = stored_size(tmp_path / "packed")
    assert sum(report.parts.values()) == 8 * sum(file.stat().st_size for file in (tmp_path / "packed").glob("*.safetensors"))
    with open_model(tmp_path / "packed") as stored:
        assert stored.manifest is not None
        tensors = [stored.quantized(name) for name in stored.manifest.modules]
        weights = sum(rows * cols for rows, cols in (tensor.shape for tensor in tensors))
        bits = {"codes": 0.0, "scales": 0.0, "zero_points": 0.0, "codebook": 0.0, "padding": 0.0} | dict.fromkeys(PACKED_PARTS[5:], 0.0)
        for tensor in tensors:
            for part, share in tensor.bits_breakdown().items():
                bits[part] += share * tensor.shape[0] * tensor.shape[1]
    assert report.quantized_weights == weights
    assert report.bpw == pytest.approx(sum(bits.values()) / weights)
    for part, counted in zip(PACKED_PARTS, bits.values(), strict=True):
        assert report.parts[part] == pytest.approx(counted)
    assert report.parts["codes"] == weights * tensors[0].scheme.bits
    assert report.parts["padding"] > 0  # 96 inputs are whole blocks, but 24 rows are not whole tiles
    assert report.tokenizer_bytes == (tmp_path / "packed" / "tokenizer.json").stat().st_size
    assert report.bpw_file == 8 * report.file_bytes / report.parameters  # type: ignore[operator]


def test_plain_checkpoint(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    report, model = stored_size(folder), torch.nn.Module()
    assert report.quantized_weights == 0
    assert report.bpw == 32.0
    assert sum(report.parts.values()) == 8 * (folder / "model.safetensors").stat().st_size
    assert report.parts["embedding"] == report.parts["head"] == 32 * 258 * 96
    assert report.parts["norm"] == 32 * 96 * 5
    assert memory_size(model).parameters == 0


def test_memory_and_file_agree(tiny_folder: Folder, tmp_path: Path) -> None:
    quantize_folder(tiny_folder(), tmp_path / "packed", "int3:g32:asym", progress=False)
    stored, loaded = stored_size(tmp_path / "packed"), memory_size(load(tmp_path / "packed"))
    assert loaded.bpw == stored.bpw
    assert loaded.parameters == stored.parameters
    assert loaded.file_bytes is loaded.bpw_file is None
    assert {part: bits for part, bits in stored.parts.items() if part != "header"} == loaded.parts


def test_tied_weights_count_once(tiny_llama: Callable[..., torch.nn.Module]) -> None:
    model = tiny_llama()
    untied = memory_size(model)
    model.lm_head.weight = model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert memory_size(model).parameters == untied.parameters - 50 * 32
    swap(model, "nf4:g32")
    assert any(isinstance(module, PackedModule) for module in model.modules())
    assert memory_size(model).parameters == untied.parameters - 50 * 32


def test_json_adds_up(tiny_folder: Folder) -> None:
    values = stored_size(tiny_folder()).to_json()
    assert sum(values["parts_bits"].values()) == 8 * values["file_bytes"]
    assert {"bpw", "bpw_file", "file_bytes"} <= set(values)


def test_sizes_need_no_torch(tiny_folder: Folder) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom kbit.evaluate import stored_size, tokenize\n"
    code += f"print(stored_size({str(tiny_folder())!r}).bpw)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("32.0", "")
