"""Folders and modules whose rotations are folded: one function before and after, the same bytes by every way, nothing left to rotate."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.models import answer, difference, text
from tests.folding.conftest import build, checkpoint, quiet_transformers  # noqa: F401 (fixtures)
from torch import nn

import kbit
from kbit.calibrate import CalibrationWindows
from kbit.calibrate.importance import gather_importance
from kbit.cli.originals import Original, relative_error
from kbit.cli.quantize import quantize as quantize_verb
from kbit.core.errors import NumericsError, ResumeMismatch, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.listing import plan_text
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.folding.choose import DEFAULT_FOLD
from kbit.model import decode, load, quantize, quantize_folder
from kbit.model.architecture import stored_tensor
from kbit.model.folded import fold_module
from kbit.model.importance import calibrate_folder
from kbit.nn.swap import packed_modules
from kbit.nn.targets import find_targets
from kbit.store.folder import open_model
from kbit.store.model_writer import ModelWriter
from kbit.store.verify import verify

from .conftest import arrays

Checkpoint = Callable[..., Path]
EIGHT = Plan(Scheme.parse("int8:g16+rotate"))
ALL = Plan(Scheme.parse("int8:g16+rotate"), embedding=Scheme.parse("int8:g16+rotate"), head=Scheme.parse("int8:g16+rotate"))
GPTQ = "int3:g16+rotate+imp+gptq"
#: of int8 in groups of 16
NEAR = 0.03


@pytest.fixture
def windows() -> CalibrationWindows:
    return CalibrationWindows(np.random.default_rng(0).integers(3, 97, (6, 16)), seed=7)


def schemes(folder: Path) -> dict[str, str]:
    with open_model(folder) as stored:
        return {name: module.scheme.text for name, module in stored.manifest.modules.items()}


def engine_logits(folder: Path, tokens: list[int], mode: str = "exact") -> np.ndarray:
    engine = Engine.load(folder, mode=mode, cache="fp32", cache_positions=64)
    return np.asarray(engine.step([Feed(engine.sequence(), tokens, "all")]))


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        *((name, ALL) for name in ("llama_head48_biased", "qwen2", "gemma_untied", "phi3", "mixtral", "qwen3_moe", "neox", "gpt2")),
        *((name, EIGHT) for name in ("llama", "mixtral")),
    ],
)
def test_the_packed_model_is_the_original_everywhere(name: str, plan: Plan, checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    result = quantize_folder(checkpoint(name), tmp_path / "out", plan, fold="all", progress=False)
    assert "folded" in result.notes[-1]
    assert verify(tmp_path / "out").ok
    tokens = text(30, seed=1)
    found = engine_logits(tmp_path / "out", tokens)
    model = decode(tmp_path / "out").float()
    model.set_attn_implementation("eager")
    assert difference(found, answer(model, tokens)) < 2e-5
    packed = load(tmp_path / "out", mode="exact", dtype=torch.float32)
    packed.set_attn_implementation("eager")
    assert difference(found, answer(packed, tokens)) < 2e-5
    if name not in ("mixtral", "qwen3_moe"):  # whose routers may choose otherwise
        assert difference(found, answer(build(name), tokens)) < NEAR


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "mixtral"])
def test_the_engine_transforms_nothing_for_folded_matrices(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    for fold in ("all", "values", "none"):
        quantize_folder(checkpoint(name), tmp_path / fold, ALL, fold=fold, progress=False)
        with open_model(tmp_path / fold) as stored:
            rotated = {key for key in stored.manifest.modules if stored.quantized(key).rotation}
            weights = ModelWeights(stored)
            lines = [line for line in plan_text(make_plan(stored.config, weights), weights).splitlines() if "rotated in blocks" in line]
        if fold == "all":
            assert {key.rpartition(".")[2] for key in rotated} == {"down_proj"}
            assert all("down_proj" in line for line in lines)
        else:
            outputs = {key for key in schemes(tmp_path / fold) if key.endswith("o_proj")}
            assert rotated == set(schemes(tmp_path / fold)) - (outputs if fold == "values" else set())
            assert any("input_layernorm" in line for line in lines)
    quantize_folder(checkpoint(name), tmp_path / "default", ALL, progress=False)
    assert schemes(tmp_path / "default") == schemes(tmp_path / "values")
    assert signature(quantize_verb).parameters["fold"].default == DEFAULT_FOLD  # of the command too


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("llama_head48_biased", GPTQ),
        ("qwen2", "nf3:g16+rotate+bias"),
        ("phi3", "int4:g16+rotate+imp+outlier1"),
        ("mixtral", "nf3:g16+rotate+imp"),
        ("gpt2", "int3:g16+rotate"),
    ],
)
def test_every_way_gives_the_same_bytes(
    name: str,
    scheme: str,
    checkpoint: Checkpoint,  # noqa: F811
    windows: CalibrationWindows,
    tmp_path: Path,
) -> None:
    for again in ("one", "two"):
        quantize_folder(checkpoint(name), tmp_path / again, scheme, calibration=windows, fold="all", progress=False)
    assert arrays(tmp_path / "one") == arrays(tmp_path / "two")
    model = kbit.encode(checkpoint(name), scheme, calibration=windows, mode="exact", fold="all", progress=False)
    assert isinstance(model, nn.Module)
    kbit.save(model, tmp_path / "module")
    assert arrays(tmp_path / "one") == arrays(tmp_path / "module")
    assert schemes(tmp_path / "one") == schemes(tmp_path / "module")
    assert any("+folded" in text for text in schemes(tmp_path / "one").values())
    online = kbit.encode(checkpoint(name), scheme, calibration=windows, fold="none", progress=False)
    assert isinstance(online, nn.Module)
    assert not any("folded" in module.scheme.methods for module in packed_modules(online).values())


def test_it_survives_saving_and_loading(checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    quantize_folder(checkpoint("llama"), tmp_path / "out", ALL, fold="all", progress=False)
    load(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert schemes(tmp_path / "again") == schemes(tmp_path / "out")
    assert arrays(tmp_path / "again") == arrays(tmp_path / "out")


@pytest.mark.parametrize(("scheme", "stop"), [("int3:g16+rotate", 20), (GPTQ, 1), (GPTQ, 9)])
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(
    scheme: str,
    stop: int,
    checkpoint: Checkpoint,  # noqa: F811
    windows: CalibrationWindows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = checkpoint("qwen2")
    quantize_folder(source, tmp_path / "whole", scheme, calibration=windows, fold="all", progress=False)
    calls: list[str] = []

    def stopping(call: Callable) -> Callable:
        def stopped(self: ModelWriter, name: str, *values: object) -> None:
            calls.append(name)
            if len(calls) == stop:
                raise KeyboardInterrupt
            call(self, name, *values)

        return stopped

    with monkeypatch.context() as patch:
        for method in ("put_quantized", "put_rows"):
            patch.setattr(ModelWriter, method, stopping(getattr(ModelWriter, method)))
        with pytest.raises(KeyboardInterrupt):
            quantize_folder(source, tmp_path / "out", scheme, calibration=windows, fold="all", progress=False)
    with pytest.raises(ResumeMismatch):
        quantize_folder(source, tmp_path / "out", scheme, calibration=windows, fold="none", progress=False)
    quantize_folder(source, tmp_path / "out", scheme, calibration=windows, fold="all", progress=False)
    assert arrays(tmp_path / "out") == arrays(tmp_path / "whole")


def test_halves_are_rounded_once_where_they_stay_halves(checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    source = checkpoint("qwen2", torch.bfloat16)
    quantize_folder(source, tmp_path / "out", EIGHT, fold="all", progress=False)
    with open_model(tmp_path / "out") as stored, open_model(source) as original:
        assert {stored.entry(name).dtype for name in stored.plain_names()} == {"BF16"}
        assert all(bool((stored_tensor(stored, name) == 1).all()) for name in stored.plain_names() if "norm" in name)
        head, before = (stored_tensor(one, "lm_head.weight").double() for one in (stored, original))
        bias = stored_tensor(stored, "model.layers.0.self_attn.v_proj.bias")
        assert not torch.equal(bias, stored_tensor(original, "model.layers.0.self_attn.v_proj.bias"))
        gain = stored_tensor(original, "model.norm.weight").double()
        assert float((head.norm() / (before * gain).norm() - 1).abs()) < 1e-3
    tokens = text(20, seed=3)
    assert difference(engine_logits(tmp_path / "out", tokens), answer(build("qwen2").to(torch.bfloat16).float(), tokens)) < NEAR


def test_errors_are_of_weights_in_one_basis(checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    for name in ("llama_head48_biased", "gpt2"):
        quantize_folder(checkpoint(name), tmp_path / name, ALL, fold="all", progress=False)
        with open_model(tmp_path / name) as stored:
            original = Original(str(checkpoint(name)), stored)
            for key, module in stored.manifest.modules.items():
                weight = original.weight(key, module.kind, module.shape)
                assert weight is not None, key
                assert relative_error(weight, stored.quantized(key).dequantize()) < 0.01, key
    quantize_folder(checkpoint("mixtral"), tmp_path / "mixtral", ALL, fold="all", progress=False)
    with open_model(tmp_path / "mixtral") as stored:
        original = Original(str(checkpoint("mixtral")), stored)
        for key, module in stored.manifest.modules.items():
            weight = original.weight(key, module.kind, module.shape)  # experts lie one by one in the original
            assert weight is None or relative_error(weight, stored.quantized(key).dequantize()) < 0.01, key


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_an_importance_file_is_brought_into_the_basis(
    name: str,
    checkpoint: Checkpoint,  # noqa: F811
    windows: CalibrationWindows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheme, used = "int4:g16+rotate+imp", {}
    calibrate_folder(checkpoint(name), tmp_path / "importance.safetensors", windows)
    encode_unit = quantize.encode_unit

    def seen(stored: object, unit: object, *, importance: np.ndarray, threads: int) -> object:
        used[unit.origin.name] = unit, importance
        return encode_unit(stored, unit, importance=importance, threads=threads)

    monkeypatch.setattr(quantize, "encode_unit", seen)
    quantize_folder(checkpoint(name), tmp_path / "file", scheme, importance=tmp_path / "importance.safetensors", fold="all", progress=False)
    model = build(name)
    targets, _ = find_targets(model, Plan(Scheme.parse(scheme)).scheme_for)
    measured = gather_importance(model, fold_module(model, targets, "all"), windows)
    names = {target.parameter: target.name for target in targets}
    assert len(used) == len(targets)
    for parameter, (unit, importance) in used.items():
        if "folded" not in unit.scheme.methods:
            continue
        block = 16  # heads of 16, and a stream of 48
        expected = measured.of(names[parameter], unit.shape)
        means = np.repeat(expected.reshape(*expected.shape[:-1], -1, block).mean(-1), block, axis=-1)
        np.testing.assert_allclose(importance, means, rtol=2e-3, err_msg=parameter)  # a rotation keeps the sum over its block
    assert sum("folded" in unit.scheme.methods for unit, _ in used.values()) >= 8


def test_what_is_not_finite_is_refused_by_its_place(tmp_path: Path) -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[5, 7] = float("inf")  # stays in 16 bits, and would be spread over a row
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(NumericsError, match=r"lm_head.weight: expected finite weights, got inf at \[5, 7\]"):
        quantize_folder(tmp_path / "source", tmp_path / "out", EIGHT, fold="all", progress=False)
    assert not (tmp_path / "out").exists()


def test_another_choice_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(SchemeError, match="unknown choice of folds 'value': did you mean 'values'"):
        quantize_folder(checkpoint("llama"), tmp_path / "out", EIGHT, fold="value", progress=False)  # type: ignore[arg-type]


def test_nobody_asks_for_what_is_recorded(checkpoint: Checkpoint, tmp_path: Path) -> None:  # noqa: F811
    for call in (
        lambda: quantize_folder(checkpoint("llama"), tmp_path / "out", "int4:g16+folded", progress=False),
        lambda: kbit.encode(build("llama"), "int4:g16+folded", progress=False),
        lambda: type(build("llama")).from_pretrained(checkpoint("llama"), quantization_config=kbit.hf.KbitConfig("int4:g16+folded")),
    ):
        with pytest.raises(SchemeError, match=r"expected '\+rotate'"):
            call()
    with pytest.raises(SchemeError, match="expected one of them"):
        Scheme.parse("int4:g16+rotate+folded")
    assert Scheme.parse("int4:g16+folded+imp+gptq").text == "int4:g16+folded+imp+gptq"
