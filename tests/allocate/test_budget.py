"""Targets: what is written is no larger than asked, uses the room there is, and what cannot be had is told with what can."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kbit.allocate import latency
from kbit.allocate.budget import file_bytes, for_bpw, for_size
from kbit.allocate.latency import StepTimes, filled, for_time, measure_times, predicted_ms
from kbit.allocate.sensitivity import Loss, Sensitivity
from kbit.allocate.units import Unit
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme
from kbit.encoders.nearest import encode
from kbit.model import quantize_folder
from kbit.store.folder import open_model

BASE = Plan(Scheme.parse("int4"))
SCHEMES = tuple(Scheme.parse(f"int{bits}:g32") for bits in (2, 3, 4, 6, 8))
FREE = ("default",)


@pytest.fixture(scope="module")
def units(make_units: Callable[..., list[Unit]]) -> list[Unit]:
    return make_units(schemes=SCHEMES)


@pytest.fixture(scope="module")
def sensitivity(units: list[Unit]) -> Sensitivity:
    """The later, the more sensitive."""
    losses = {unit.name: {s: Loss((1 + i) * unit.weights * 4.0**-s.bits, 0.1) for s in unit.schemes} for i, unit in enumerate(units)}
    return Sensitivity(losses, "measured", 1)


@pytest.mark.parametrize("bpw", [2.5, 3.0, 4.25, 5.9, 8.5])
def test_bits_a_weight_are_those_of_the_file(
    bpw: float, units: list[Unit], sensitivity: Sensitivity, model_folder: Path, tmp_path: Path
) -> None:
    found = for_bpw(units, sensitivity, bpw, base=BASE, free=FREE)
    written = quantize_folder(model_folder, tmp_path / "out", found.plan, progress=False)
    assert written.bpw == pytest.approx(found.bpw)
    assert bpw - 0.1 < written.bpw <= bpw
    bits = [scheme.bits for scheme in found.chosen.values()]
    assert bits[-1] >= bits[0]


@pytest.mark.parametrize("size", [300_000, 310_000, 330_000])
@pytest.mark.parametrize("shard", [5_000_000_000, 100_000])
def test_a_size_is_that_of_the_files(
    size: int, shard: int, units: list[Unit], sensitivity: Sensitivity, model_folder: Path, tmp_path: Path
) -> None:
    with open_model(model_folder) as stored:
        plain = file_bytes(stored, Plan(SCHEMES[0]), max_shard_bytes=shard)
        target = plain + (size - 300_000) // 10
        found = for_size(stored, units, sensitivity, target, base=BASE, free=FREE, max_shard_bytes=shard)
        stated = file_bytes(stored, found.plan, max_shard_bytes=shard)
    written = quantize_folder(model_folder, tmp_path / "out", found.plan, progress=False, max_shard_bytes=shard)
    assert written.file_bytes == stated
    assert stated <= target


def test_what_cannot_be_had_is_told(units: list[Unit], sensitivity: Sensitivity, model_folder: Path) -> None:
    with pytest.raises(SchemeError, match=r"at least 2\.5"):
        for_bpw(units, sensitivity, 2.4, base=BASE, free=FREE)
    with open_model(model_folder) as stored, pytest.raises(SchemeError, match="at least about"):
        for_size(stored, units, sensitivity, 10_000, base=BASE, free=FREE)
    with pytest.raises(SchemeError, match=r"at least 0\.\d+ ms"):
        for_time(units, sensitivity, StepTimes({unit.name: [10_000] * 5 for unit in units}, 1000), 0.01, base=BASE, free=FREE)


def test_a_time_is_kept_by_the_times_that_were_measured(units: list[Unit], sensitivity: Sensitivity) -> None:
    times = StepTimes({unit.name: [unit.weights * scheme.bits for scheme in unit.schemes] for unit in units}, 5_000)
    total = sum(unit.weights for unit in units)
    found = for_time(units, sensitivity, times, (total * 4 + 5_000) / 1e6, base=BASE, free=FREE)
    assert (total * 3.8 + 5_000) / 1e6 < predicted_ms(units, times, found.chosen) <= (total * 4 + 5_000) / 1e6


def test_times_are_measured_for_each_shape_and_scheme(units: list[Unit], model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_STREAM_BYTES", 1 << 20)
    some = [unit for unit in units if "layers.0" in unit.name]
    times = measure_times(model_folder, some, BASE, FREE, progress=False)
    assert set(times.products) == {unit.name for unit in some}
    assert all(nanoseconds > 0 for one in times.products.values() for nanoseconds in one)
    assert times.rest >= 0
    kept = [Unit("a", "linear", (32, 32), (KEEP,), (1,), free=True)]
    with pytest.raises(SchemeError, match="packed schemes only"):
        measure_times(model_folder, kept, BASE, FREE, progress=False)


@pytest.mark.parametrize("text", ["trellis2:g32", "trellis3:g-1:e4m3", "vq2d3:g96", "int3:g32:asym", "kmeans5:g32:dq8", "float4:g32"])
@pytest.mark.parametrize("rows", [5, 16, 40, 64])
def test_a_matrix_for_the_timer_is_one_that_could_have_been_encoded(text: str, rows: int) -> None:
    scheme = Scheme.parse(text)
    found = filled(scheme, (rows, 192))
    found.validate()
    tile = encode(np.random.default_rng(0).standard_normal((16, 192), np.float32), scheme)
    assert (found.scheme, found.shape) == (scheme, (-(-rows // 16) * 16, 192))
    assert found.parts().keys() == tile.parts().keys()
    assert 0 < np.square(found.dequantize()).mean() < 10
    if rows <= 16:
        np.testing.assert_array_equal(found.dequantize(), tile.dequantize())


def test_times_know_trellis_codes(units: list[Unit], model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_STREAM_BYTES", 1 << 20)
    schemes = tuple(Scheme.parse(text) for text in ("trellis2:g32+imp+gptq", "int4:g32", "trellis3:g32+imp+gptq"))
    some = [replace(unit, schemes=schemes, sizes=(2, 4, 3)) for unit in units if "layers.1" in unit.name]
    encoded: list[Plan] = []
    true_quantize = latency.quantize_folder

    def noted(source: Path, folder: Path, plan: Plan, **more: object) -> object:
        encoded.append(plan)
        return true_quantize(source, folder, plan, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(latency, "quantize_folder", noted)
    times = measure_times(model_folder, some, BASE, FREE, progress=False)
    assert all(len(one) == 3 and min(one) > 0 for one in times.products.values())
    assert encoded[0].default.text == "int4:g32"  # the rest is measured on what is quick to encode
