"""A tiny language model on disk whose predictions depend on its weights, and its units."""

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from kbit.allocate.units import Unit, find_units
from kbit.calibrate.text import CalibrationWindows
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.store.folder import open_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SCHEMES = tuple(Scheme.parse(text) for text in ("int2:g32:mse", "int3:g32+imp", "int4:g32+imp+gptq"))
BASE = Plan(Scheme.parse("int4"))


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with the embedded model's tokenizer."""
    torch.manual_seed(4)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)
    folder = tmp_path_factory.mktemp("allocate") / "model"
    model.save_pretrained(folder)
    source = files("kbit").joinpath("data", "quill-4.2m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(str(source.joinpath(name)), folder / name)
    return folder


@pytest.fixture(scope="session")
def windows() -> CalibrationWindows:
    """Six windows of 48 tokens."""
    return CalibrationWindows(np.random.default_rng(1).integers(1, 4096, (6, 48)))


@pytest.fixture(scope="session")
def make_units(model_folder: Path) -> Callable[..., list[Unit]]:
    """Units of the model; by default linear layers alone are free."""

    def make(base: Plan = BASE, free: tuple[str, ...] = ("default",), schemes: tuple[Scheme, ...] = SCHEMES) -> list[Unit]:
        plain = tuple(Scheme.parse(text) for text in ("int4:g32:mse", "int8:g32:mse"))
        with open_model(model_folder) as stored:
            return find_units(stored, base, free, lambda kind: plain if kind == "embedding" else schemes)

    return make
