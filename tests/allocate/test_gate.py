"""The gate: sound models pass, broken ones are refused and left aside, and what has no loss to look at is told."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbit.allocate import gate as gate_module
from kbit.allocate.band import LEAST_KL, MOST_KL, SLACK, expected_kl, gaussian_error, largest_kl
from kbit.allocate.gate import Gate, describe
from kbit.allocate.recipes import books
from kbit.core.errors import ModelError, QualityError
from kbit.core.scheme import KEEP, Scheme
from kbit.model import quantize_folder
from kbit.store.folder import open_model
from kbit.store.manifest import Module


@pytest.fixture
def gate(model_folder: Path) -> Gate:
    return Gate(model_folder, tuple(books()))


def test_a_sound_model_passes(gate: Gate, model_folder: Path, tmp_path: Path) -> None:
    quantize_folder(model_folder, tmp_path / "out", "int4:g32", progress=False, check=gate)
    result = gate.result
    assert result is not None
    assert 0 < result.kl < result.limit < MOST_KL
    assert result.loss == pytest.approx(result.reference_loss, abs=0.5)
    assert result.tokens == 2048
    assert "passed" in describe(result)
    assert (tmp_path / "out" / "config.json").exists()


def _broken(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    import kbit.model.quantize as module

    true_encode = module.encode_unit
    monkeypatch.setattr(module, "encode_unit", lambda stored, unit, **options: change(true_encode(stored, unit, **options)))


def _with_scales(tensor: Any, factor: float) -> Any:
    from dataclasses import replace

    import numpy as np

    return replace(tensor, scale=(tensor.scale.view(np.float16) * np.float16(factor)).view(np.uint16))


def test_a_broken_model_is_refused_and_left_aside(gate: Gate, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _broken(patch, lambda tensor: _with_scales(tensor, -1.0))
        with pytest.raises(QualityError, match=r"at most .* got .*out\.partial"):
            quantize_folder(model_folder, tmp_path / "out", "int4:g32", progress=False, check=gate)
    assert not (tmp_path / "out").exists()
    with open_model(tmp_path / "out.partial") as stored:  # whole, and can be looked at
        assert stored.root is not None
    quantize_folder(model_folder, tmp_path / "out", "int4:g32", progress=False)  # taken as it is
    assert (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_the_embedded_text_is_long_enough_for_a_small_model(gate: Gate) -> None:
    assert gate._windows().protocol.tokens == 2048


def test_a_model_beyond_the_engine_runs_through_transformers(
    gate: Gate, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_folder(model_folder, tmp_path / "a", "int4:g32", progress=False, check=gate)

    def unknown(*_: object, **__: object) -> None:
        raise ModelError("no such architecture")

    monkeypatch.setattr(gate_module.Engine, "load", unknown)
    other = Gate(model_folder, tuple(books()))
    quantize_folder(model_folder, tmp_path / "b", "int4:g32", progress=False, check=other)
    assert other.result.kl == pytest.approx(gate.result.kl, rel=0.05)


def test_no_tokenizer_no_check(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    gate = Gate(bare, tuple(books()))
    quantize_folder(bare, tmp_path / "out", "int4:g32", progress=False, check=gate)
    assert "tokenizer.json" in gate.result.skipped
    assert describe(gate.result).startswith("not checked")


def test_the_band_follows_the_bits() -> None:
    errors = [gaussian_error(Scheme.parse(f"int{bits}:g64")) for bits in range(2, 9)]
    assert all(2.5 < one / other < 6 for one, other in itertools.pairwise(errors))
    assert gaussian_error(KEEP) == 0
    modules = {"a": Module(Scheme.parse("int4:g64"), (64, 64)), "b": Module(Scheme.parse("int2:g64"), (64, 192))}
    mixed = (errors[2] + 3 * errors[0]) / 4
    assert expected_kl(modules) == pytest.approx(4 * mixed)
    assert largest_kl({"a": modules["a"]}) == pytest.approx(SLACK * 4 * errors[2])
    assert largest_kl({"a": Module(Scheme.parse("int8:g64"), (64, 64))}) == LEAST_KL
    assert largest_kl(modules) == MOST_KL
    assert largest_kl({"a": modules["a"]}, predicted=0.05) == pytest.approx(0.5)
    assert math.isfinite(largest_kl(modules, predicted=3.0))
