import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.data_types import GRIDS
from kbit.core.errors import NumericsError, SchemeError
from kbit.core.scheme import KEEP, Scheme
from kbit.grids import GRID_TABLE, FittedGrid, is_data_dependent, levels_for

FIXED = [
    *(Scheme("int", bits, symmetric=symmetric) for symmetric in (True, False) for bits in GRIDS["int"]),
    *(Scheme("float", bits, exponent_bits=bits_e) for bits in GRIDS["float"] for bits_e in range(1, min(5, bits - 1) + 1)),
    *(Scheme("log", bits, per_octave=per_octave) for per_octave in range(1, 17) for bits in GRIDS["log"]),
    *(Scheme("nf", bits) for bits in GRIDS["nf"]),
    *(Scheme("dynamic", bits) for bits in GRIDS["dynamic"]),
]
FITTED = [Scheme(grid, bits) for grid in ("quantile", "kmeans") for bits in GRIDS[grid]]
#: first 16 digits of the SHA-256 of the levels, little-endian float32 (log: of all 16 bases, one after another)
PINNED = {
    "int1": "c1112024d84bac17",
    "int2": "d3bc0bc1bc33a494",
    "int3": "02590a7f64575934",
    "int4": "8b831d777e8026ae",
    "int5": "da7d905890f8bdd9",
    "int6": "fb99673b64a79e79",
    "int7": "29a2d083e5de51b4",
    "int8": "a9d252f915e828f7",
    "int1:asym": "22b6f43bd8d27738",
    "int2:asym": "4c9c4f354e74153d",
    "int3:asym": "0571cfe42be5c7b9",
    "int4:asym": "58dda328598e2f7f",
    "int5:asym": "0c43f2957858ef1a",
    "int6:asym": "21b9ca0f94efa26b",
    "int7:asym": "9a7da1da62b9bde6",
    "int8:asym": "04441b72253f4938",
    "float2e1": "f59bd825bfe666a4",
    "float3e1": "b23ed6108cbe90a3",
    "float3e2": "ea12e405ada6e85d",
    "float4e1": "ca73e10507deebf4",
    "float4e2": "16abc692614f20f3",
    "float4e3": "cf22574e3660f830",
    "float5e1": "c0f0f1bc472c6c0c",
    "float5e2": "7d7351262c44ef0a",
    "float5e3": "8d32f6cd9c80b5ee",
    "float5e4": "eb50d45164921094",
    "float6e1": "679cdafdf01c66ef",
    "float6e2": "e26a61fc65ca7b42",
    "float6e3": "42130260a5b55a6c",
    "float6e4": "b61ced95a26a1bec",
    "float6e5": "ef290f575e9412ea",
    "float7e1": "a7f23b62e65d5936",
    "float7e2": "457893b1389549f5",
    "float7e3": "36ec238f447a4e57",
    "float7e4": "f2bb3815ea01c66c",
    "float7e5": "0a1a69abc908f539",
    "float8e1": "290e2e2f1691e5ee",
    "float8e2": "b9c0bb2fe742f573",
    "float8e3": "5eb6978592f29472",
    "float8e4": "2db15649d1187332",
    "float8e5": "f1d37e0b5117b0d4",
    "log2": "528be2f6ee001c66",
    "log3": "95a0d76c4d3842b4",
    "log4": "2bd1357fe65a4ed6",
    "log5": "6a7a0b25708ff421",
    "log6": "2012b4b574fd0e24",
    "log7": "079d82d4b5d965f6",
    "log8": "be078dede530fe02",
    "nf1": "c1112024d84bac17",
    "nf2": "454ee60953ae91be",
    "nf3": "bdfa7c09d24f4f27",
    "nf4": "8501941daa1b8a90",
    "nf5": "170a655e9a54d6a3",
    "nf6": "60367bfc213e535c",
    "nf7": "339879a0cdf1a050",
    "nf8": "0b521131185db722",
    "dynamic2": "5f691396e87c3651",
    "dynamic3": "f3b919620946215f",
    "dynamic4": "721d11e3711326d4",
    "dynamic5": "a5e3378fe9ba591d",
    "dynamic6": "88264107acd57ba3",
    "dynamic7": "bc32d4312cdf59e8",
    "dynamic8": "e732639a65f497b4",
}


def family(scheme: Scheme) -> str:
    """Text of a scheme's grid alone; log grids of all bases share the entry of their bits."""
    text = scheme.text.replace(":g64", "")
    return text.split("r")[0] if scheme.grid == "log" else text


def gaussian_blocks(count: int = 500) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, 64)).astype(np.float32)


def normalised(blocks: np.ndarray) -> np.ndarray:
    """Each block divided by its signed element of largest magnitude."""
    return blocks / np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)


def squared_error(levels: np.ndarray, blocks: np.ndarray) -> float:
    """Mean squared error of absmax blocks, by comparing with every level."""
    peak = levels[-1] if levels[-1] >= -levels[0] else levels[0]
    scale = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1) / peak
    codes = np.abs((blocks / scale)[..., None] - levels).argmin(axis=-1)
    return float(((levels[codes] * scale - blocks) ** 2).mean())


@pytest.mark.parametrize("scheme", FIXED + FITTED, ids=str)
def test_levels_are_ascending_float32_and_fit_the_bits(scheme: Scheme) -> None:
    levels = levels_for(scheme, normalised(gaussian_blocks(50)))
    assert levels.dtype == np.float32
    assert levels.ndim == 1
    assert 1 <= levels.size <= 2**scheme.bits
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()
    assert not np.signbit(levels[levels == 0]).any()
    assert np.abs(levels).max() == np.float32(peak_of(scheme))


def peak_of(scheme: Scheme) -> float:
    """The largest magnitude of a grid, as its definition states it."""
    if scheme.grid == "int":
        return 2.0 ** (scheme.bits - 1) if scheme.symmetric else 2.0**scheme.bits - 1
    if scheme.exponent_bits is not None:
        mantissa_bits = scheme.bits - 1 - scheme.exponent_bits
        largest = 2.0 ** (2 ** (scheme.exponent_bits - 1)) * (2 - 2.0**-mantissa_bits)
        return {"float8e4": 448.0, "float8e5": 57344.0}.get(family(scheme), largest)
    return 1.0


@pytest.mark.parametrize("name", sorted({family(scheme) for scheme in FIXED}))
def test_levels_never_change(name: str) -> None:
    """Levels of fixed grids are part of the file format: packed files hold codes, and readers recompute what they mean."""
    digest = hashlib.sha256()
    for scheme in FIXED:
        if family(scheme) == name:
            digest.update(levels_for(scheme).astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]


def test_every_grid_of_the_scheme_is_registered_and_no_other() -> None:
    assert set(GRID_TABLE) == set(GRIDS)
    assert {name for name, grid in GRID_TABLE.items() if isinstance(grid, FittedGrid)} == {"quantile", "kmeans", "nested"}


def test_an_unknown_grid_is_answered_with_the_closest() -> None:
    with pytest.raises(SchemeError, match=r"unknown grid 'kmean': did you mean 'kmeans'\?"):
        GRID_TABLE["kmean"]


@pytest.mark.parametrize("scheme", FIXED + FITTED, ids=str)
def test_is_data_dependent(scheme: Scheme) -> None:
    assert is_data_dependent(scheme) == (scheme.grid in {"quantile", "kmeans"})


@pytest.mark.parametrize("scheme", FITTED, ids=str)
def test_fitted_grids_need_a_sample(scheme: Scheme) -> None:
    with pytest.raises(SchemeError, match="expected a sample of normalised weights, got None"):
        levels_for(scheme)


def test_a_tensor_left_alone_has_no_levels() -> None:
    for ask in (levels_for, is_data_dependent):
        with pytest.raises(SchemeError, match="got '16'"):
            ask(KEEP)


def test_fixed_grids_ignore_the_sample() -> None:
    bad = np.array([np.nan])
    np.testing.assert_array_equal(levels_for(Scheme("nf", 4), bad, bad), levels_for(Scheme("nf", 4)))
    with pytest.raises(NumericsError):
        levels_for(Scheme("kmeans", 4), bad)


def test_levels_are_a_new_array() -> None:
    levels = levels_for(Scheme("int", 4))
    levels[:] = 0
    assert levels_for(Scheme("int", 4))[0] == -8


@pytest.mark.parametrize("grid", ["int", "float1", "float2", "log1", "log2", "log4", "nf", "quantile", "dynamic", "kmeans"])
def test_gaussian_error_falls_with_bits(grid: str) -> None:
    blocks = gaussian_blocks()
    sample = normalised(blocks)
    name, detail = grid.rstrip("0123456789"), "".join(filter(str.isdigit, grid))
    options = {"float": "exponent_bits", "log": "per_octave"}
    extra = {options[name]: int(detail)} if detail else {}
    smallest = max(GRIDS[name][0], int(detail or 1) + 1) if name == "float" else GRIDS[name][0]
    errors = [squared_error(levels_for(Scheme(name, bits, **extra), sample), blocks) for bits in range(smallest, 9)]
    for before, after in pairwise(errors):
        # log saturates: more levels near 0 change next to nothing, but never harm
        assert after < before or (name == "log" and after == before), errors


def test_fitted_levels_beat_fixed_ones_where_they_are_fitted() -> None:
    blocks = gaussian_blocks()
    for bits in range(2, 9):
        fitted = squared_error(levels_for(Scheme("kmeans", bits), normalised(blocks)), blocks)
        assert fitted < min(squared_error(levels_for(Scheme(grid, bits)), blocks) for grid in ("int", "float", "log", "nf", "dynamic"))


@pytest.mark.parametrize("grid", ["quantile", "kmeans"])
@settings(max_examples=60, deadline=None)
@given(
    weights=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    bits=st.integers(1, 8),
    share=st.sampled_from([None, 0.0, 1e-300, 1e300]),
)
def test_fitted_grids_survive_any_finite_sample(grid: str, weights: np.ndarray, bits: int, share: float | None) -> None:
    importance = None if share is None else np.full(weights.size, share)
    levels = levels_for(Scheme(grid, bits), weights, importance)
    assert 1 <= levels.size <= 2**bits
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()
    assert np.abs(levels).max() == (1 if weights.any() else 0)


@pytest.mark.parametrize("grid", ["quantile", "kmeans"])
@pytest.mark.parametrize(
    "weights",
    [
        np.full(100, 0.3),
        np.full(100, -3e38),
        np.full(100, 1e-45),
        np.array([1e-45, 3e38]),
        np.array([-1e-45, 1e-45, 0, -0.0]),
        np.array([0.7]),
        np.zeros(100),
        np.concatenate([np.zeros(5000), np.linspace(-1, 1, 5000)]),
        np.concatenate([np.full(5000, 1e-40), [3e38]]),
    ],
    ids=["equal", "huge", "denormal", "wide", "around-zero", "one", "zero", "half-zero", "outlier"],
)
def test_nasty_samples(grid: str, weights: np.ndarray) -> None:
    for dtype in (np.float32, np.float64):
        for bits in range(1, 9):
            levels = levels_for(Scheme(grid, bits), weights.astype(dtype))
            assert 1 <= levels.size <= 2**bits
            assert (np.diff(levels) > 0).all()
            assert np.abs(levels).max() == (1 if weights.any() else 0)
