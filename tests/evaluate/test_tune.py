"""`tune`: which matrices of a model are measured, and what is kept; times are made up."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.evaluate.tune import SCHEMES, SHAPES, random_matrix, tune
from kbit.kernels.measure import STREAM_BYTES, Timer
from kbit.kernels.tuning import read_tunings
from kbit.kernels.variants import Kind, Variant
from kbit.store.header import TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import ModelWriter
from kbit.tensor.quantized import QuantizedTensor

MODULES = {
    "a": ("int2:g32", (64, 64)),
    "b": ("int2:g32", (64, 64)),
    "c": ("int2:g64", (64, 64)),
    "d": ("nf3:g32", (32, 64)),
    "e": ("nf3:g32", (3, 32, 64)),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Five packed modules of three kinds, one of them a stack."""
    return write(tmp_path / "model", MODULES)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KBIT_TUNING", str(tmp_path / "tuning.json"))
    return tmp_path / "tuning.json"


def write(folder: Path, modules: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    plan = Plan.of(Scheme.parse("nf3:g32"))
    listed = {name: Module(Scheme.parse(text), shape) for name, (text, shape) in modules.items()}
    with ModelWriter(folder, Manifest(plan, listed), [TensorSpec("norm.weight", "F32", (4,))]) as writer:
        for name, module in listed.items():
            writer.put_quantized(name, encode(np.ones(module.shape, np.float32), module.scheme, name=name))
        writer.put("norm.weight", np.ones(4, np.float32))
        writer.finish({"quantization_config": {"quant_method": "kbit"}}, {})
    return folder


def fake(seen: list[tuple[QuantizedTensor, int]]) -> Callable[[QuantizedTensor, int], Timer]:
    def make_timer(quantized: QuantizedTensor, stream_bytes: int) -> Timer:
        seen.append((quantized, stream_bytes))

        def seconds(variant: Variant, tokens: int, threads: int) -> float:
            return 0.5 if variant == "lookup" else 1.0

        return seconds

    return make_timer


def test_each_kind_of_a_model_is_measured_once_and_kept(model: Path, path: Path) -> None:
    seen: list[tuple[QuantizedTensor, int]] = []
    said: list[object] = []
    tuned = tune(model, threads=2, rounds=1, make_timer=fake(seen), progress=said.append)
    assert [(quantized.scheme.text, quantized.shape) for quantized, _ in seen] == [
        ("int2:g32", (64, 64)),
        ("int2:g64", (64, 64)),
        ("nf3:g32", (32, 64)),
    ]
    assert {stream for _, stream in seen} == {3 * 64 * 64 * 2 // 8 + 4 * 32 * 64 * 3 // 8}
    assert tuned.path == path
    assert read_tunings(path) == [tuned.tuning]
    assert (tuned.tuning.machine.isa, tuned.tuning.threads) == (native.isa(), (1, 2))
    kinds = [Kind(2, True, 32, 64, 64), Kind(2, True, 128, 64, 64), Kind(3, False, 32, 32, 64)]
    assert [(c.kind, c.tokens, c.variant) for c in tuned.tuning.choices] == [
        (kind, tokens, "lookup") for kind in kinds for tokens in ("one", "few")
    ]
    assert list(tuned.tuning.choices) == said
    assert len(tuned.defaults) == 6


def test_without_a_model_there_is_a_standard_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbit.evaluate.tune.SHAPES", ((32, 64), (64, 128)))
    seen: list[tuple[QuantizedTensor, int]] = []
    tuned = tune(threads=1, rounds=1, make_timer=fake(seen))
    assert len(tuned.tuning.choices) == 2 * len(seen) == 4 * len(SCHEMES)
    assert {stream for _, stream in seen} == {STREAM_BYTES}
    assert {choice.kind.bits for choice in tuned.tuning.choices if choice.kind.straight} == {1, 2, 3, 4, 8}


def test_the_standard_set_is_of_real_shapes() -> None:
    assert all(rows % 512 == cols % 512 == 0 for rows, cols in SHAPES)
    for text in SCHEMES:
        random_matrix(Scheme.parse(text), (32, 64)).validate()


def test_the_clock_itself(model: Path, path: Path) -> None:
    assert len(tune(model, threads=1, rounds=1).tuning.choices) == 6


def test_a_model_without_packed_matrices_has_nothing_to_choose(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ModelError, match="expected a packed model"):
        tune(write(tmp_path / "plain", {}), make_timer=fake([]))
    assert not path.exists()


def test_nowhere_to_keep_it_is_said_before_it_is_measured(model: Path) -> None:
    seen: list[tuple[QuantizedTensor, int]] = []
    with pytest.raises(SchemeError, match="no place for a tuning"):
        tune(model, make_timer=fake(seen))
    assert not seen
