import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kbit.core.errors import FormatError, ModelError, SchemeError, StorageError
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.model import quantize_folder
from kbit.nn.packed import PackedModule

Folder = Callable[..., Path]


def test_plain_folders_load_in_float32(tiny_folder: Folder) -> None:
    model = load_causal_model(tiny_folder(dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_packed_folders_load_on_kernels(tiny_folder: Folder, tmp_path: Path, mode: str) -> None:
    quantize_folder(tiny_folder(), tmp_path / "packed", "nf4:g32", progress=False)
    packed = [module for module in load_causal_model(tmp_path / "packed", mode=mode).modules() if isinstance(module, PackedModule)]
    assert {module.mode for module in packed} == {mode}


def test_others_are_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="did you mean 'exact'"):
        load_causal_model(tiny_folder(), mode="exakt")
    config = json.loads((tiny_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ModelError, match=r"causal language model in .*, got BertForMaskedLM"):
        load_causal_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load"):
        load_causal_model(tmp_path)  # no weights


def test_tokenizers(tiny_folder: Folder, tmp_path: Path) -> None:
    assert load_tokenizer(tiny_folder()).encode("ab").ids == [256]
    with pytest.raises(StorageError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match="expected a tokenizer"):
        load_tokenizer(tmp_path)
