import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kbit import native
from kbit.core.errors import ModelError, ShapeError
from kbit.core.scheme import Scheme
from kbit.evaluate.engine_runner import EngineRunner
from kbit.evaluate.speed import bench, bench_folder, open_runner
from kbit.evaluate.torch_runner import TorchRunner, weight_bytes_per_token
from kbit.model import quantize_folder
from kbit.nn.experts import KbitStack
from kbit.nn.swap import swap

Build = Callable[..., torch.nn.Module]
CONTRACT = {
    *("prefill_tokens_per_s", "decode_tokens_per_s", "decode_gb_per_s", "memory_roof_gb_per_s", "int8_roof_gmac_per_s"),
    *("threads", "isa", "load_seconds", "peak_rss_bytes"),
}


@pytest.fixture(autouse=True)
def cheap_roofs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The probes take 256 MB and a while; their figures are not at stake here."""
    asked: list[int] = []
    monkeypatch.setattr(native, "memory_roof", lambda threads=0: asked.append(threads) or 20.0)
    monkeypatch.setattr(native, "int8_roof", lambda threads=0: 100.0)
    return asked


def test_bench_has_the_keys_of_the_contract(tiny_llama: Build, cheap_roofs: list[int]) -> None:
    before, torch_before = native.threads(), torch.get_num_threads()
    result = bench(TorchRunner(tiny_llama()), prompt_tokens=8, decode_tokens=4, threads=2, repeats=2)
    values = result.to_json()
    assert set(values) >= CONTRACT
    assert values["threads"] == 2
    assert values["load_seconds"] is None
    assert values["isa"] == native.isa()
    assert values["memory_roof_gb_per_s"] == 20.0
    assert values["peak_rss_bytes"] > 50e6  # torch alone is more
    assert values["decode_gb_per_s"] == pytest.approx(values["decode_tokens_per_s"] * values["weight_bytes_per_token"] / 1e9)
    assert cheap_roofs == [2, 2, 2]  # once for the warm-up and each repeat
    assert (native.threads(), torch.get_num_threads()) == (before, torch_before)


def test_decode_steps_see_one_token_each(tiny_llama: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = tiny_llama(), []
    model.register_forward_pre_hook(lambda _, inputs, options: lengths.append(inputs[0].shape[1]), with_kwargs=True)
    bench(TorchRunner(model), prompt_tokens=8, decode_tokens=3, repeats=1)
    assert lengths == [8, 1, 1, 1] * 2


def test_prompt_is_cut_to_the_positions(tiny_llama: Build) -> None:
    model = tiny_llama(positions=16)
    assert bench(TorchRunner(model), prompt_tokens=512, decode_tokens=4, repeats=1).prompt_tokens == 12
    with pytest.raises(ShapeError, match="16 positions, got 16"):
        bench(TorchRunner(model), decode_tokens=16)


@pytest.mark.parametrize("option", ["prompt_tokens", "decode_tokens", "repeats"])
def test_numbers_below_one_are_refused(tiny_llama: Build, option: str) -> None:
    with pytest.raises(ShapeError, match=option):
        bench(TorchRunner(tiny_llama()), **{option: 0})


def test_models_without_a_cache_are_refused() -> None:
    class Cacheless(torch.nn.Module):
        def get_input_embeddings(self) -> torch.nn.Module:
            return torch.nn.Embedding(10, 2)

        def forward(self, ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*ids.shape, 10), past_key_values=None)

    with pytest.raises(ModelError, match="KV cache"):
        bench(TorchRunner(Cacheless()), prompt_tokens=2, decode_tokens=2)
    with pytest.raises(ModelError, match="interface"):
        TorchRunner(torch.nn.Linear(2, 2))


def test_weights_read_by_one_token(tiny_llama: Build) -> None:
    model = tiny_llama()
    every = sum(parameter.nbytes for parameter in model.parameters()) + sum(buffer.nbytes for buffer in model.buffers())
    table = 50 * 32 * 4
    assert weight_bytes_per_token(model) == every - table + 32 * 4  # one row of the embedding
    model.lm_head.weight = model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert weight_bytes_per_token(model) == every - table  # the head reads the shared table
    before = weight_bytes_per_token(model)
    swap(model, "int2:g32")
    assert weight_bytes_per_token(model) < before


def test_of_a_stack_of_experts_the_chosen_are_read() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(num_experts_per_tok=2)
            self.plain = torch.nn.Parameter(torch.zeros(8, 4, 4))

    layer = Layer()
    assert weight_bytes_per_token(layer) == 8 * 4 * 4 * 4 // 4
    layer.packed = KbitStack(8, 16, 32, Scheme.parse("int4:g32"))
    codes, scales = 8 * 16 * 32 // 2, 8 * 16 * 2
    assert weight_bytes_per_token(layer) == (8 * 4 * 4 * 4 + codes + scales) // 4


def test_loading_is_timed(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize_folder(tiny_folder(), tmp_path / "packed", "nf4:g32", progress=False)
    result = bench_folder(tmp_path / "packed", prompt_tokens=4, decode_tokens=2, repeats=1)
    assert result.load_seconds is not None
    assert result.load_seconds > 0
    assert result.runner == "engine"


def test_the_engine_runs_what_it_knows_and_transformers_the_rest(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder(), tmp_path / "model"))
    runner = open_runner(folder)
    assert isinstance(runner, EngineRunner)
    result = bench(runner, prompt_tokens=8, decode_tokens=4, threads=1, repeats=1).to_json()
    assert set(result) >= CONTRACT
    assert result["threads"] == 1
    other = json.loads((folder / "config.json").read_text()) | {
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0},
    }
    (folder / "config.json").write_text(json.dumps(other))
    assert isinstance(open_runner(folder), TorchRunner)


def test_engine_and_transformers_read_as_many_bytes(tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder()
    # In memory transformers holds float32, as the file does here, and a table of rotary frequencies.
    found = EngineRunner.load(folder).weight_bytes_per_token
    assert 0 <= TorchRunner.load(folder).weight_bytes_per_token - found <= 256
