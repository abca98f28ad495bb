"""Half-quadratic scales: a norm that never rises, all scale formats, outliers that no longer pull a group's scale."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.hqq import NORM
from kbit.encoders.nearest import NearestEncoder
from kbit.encoders.reference import nearest_codes
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.scales import scale_values


def heavy(rows: int = 21, cols: int = 75, seed: int = 0) -> np.ndarray:
    """Weights with heavy tails; 75 columns leave a ragged group."""
    return np.random.default_rng(seed).standard_t(3, size=(rows, cols)).astype(np.float32)


def norms(weights: np.ndarray, decoded: np.ndarray, size: int) -> np.ndarray:
    powers = np.pad(np.abs(weights - decoded).astype(np.float64) ** NORM, ((0, 0), (0, -weights.shape[1] % size)))
    return powers.reshape(len(weights), -1, size).sum(-1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("options", [":g16", ":g32:asym", ":g16:e4m3", ":g32:dq8"])
def test_the_norm_of_no_group_rises(bits: int, options: str) -> None:
    weights = heavy()
    scheme = Scheme.parse(f"int{bits}{options}")
    before = encode(weights, Scheme.parse(f"int{bits}{options}:mse"))
    after = encode(weights, Scheme.parse(f"{scheme.text}+hqq"))
    after.validate()
    old, new = (norms(weights, one.dequantize(), scheme.group_size) for one in (before, after))
    assert (new <= old * (1 + 1e-5)).all()
    assert after.scheme.text == f"{scheme.text}+hqq"


@pytest.mark.parametrize("text", ["int2:g32", "int3:g32:asym", "nf3:g32", "kmeans2:g16", "float4:g-1"])
def test_it_gains_and_codes_are_the_nearest_of_its_scales(text: str) -> None:
    weights = heavy(seed=1)
    before, after = encode(weights, Scheme.parse(f"{text}:mse")), encode(weights, Scheme.parse(f"{text}+hqq"))
    size = 75 if "g-1" in text else Scheme.parse(text).group_size
    assert norms(weights, after.dequantize(), size).sum() < 0.99 * norms(weights, before.dequantize(), size).sum()
    group = np.arange(75) // size
    scale = rows_of_tiles(scale_values(after), 21)[:, group]
    zero = 0 * scale if after.zero_point is None else rows_of_tiles(after.zero_point, 21)[:, group].astype(np.float32)
    assert np.array_equal(after.codes(), nearest_codes(weights, scale, zero, after.levels))


def test_it_comes_nearer_to_what_a_fine_search_over_scales_finds() -> None:
    weights = heavy(rows=16, cols=32, seed=2)
    quantized = encode(weights, Scheme.parse("int3:g32+hqq"))
    found, start = (norms(weights, one.dequantize(), 32)[:, 0] for one in (quantized, encode(weights, Scheme.parse("int3:g32:mse"))))
    levels = quantized.levels
    best = np.full(len(weights), np.inf)
    for multiple in np.linspace(0.2, 1.2, 400, dtype=np.float32):
        for sign in (1, -1):
            scale = sign * multiple * np.abs(weights).max(1, keepdims=True) / 4
            decoded = levels[nearest_codes(weights, scale, np.float32(0), levels)] * scale
            best = np.minimum(best, norms(weights, decoded, 32)[:, 0])
    assert (found / best).mean() - 1 < 0.75 * ((start / best).mean() - 1)


def test_pieces_importance_zeros_and_gptq() -> None:
    weights, scheme = heavy(rows=48, seed=3), Scheme.parse("int3:g32:asym+hqq")
    weights[5] = 0
    whole = encode(weights, scheme)
    assert not whole.dequantize()[5].any()
    encoder = NearestEncoder(weights.shape, scheme)
    pieces = {segment.part: bytearray() for segment in encoder.encode_rows(0, weights)}
    for begin in (0, 16, 32):
        for segment in encoder.encode_rows(begin, weights[begin : begin + 16]):
            if segment.part == "weight_scale":
                pieces["weight_scale"][segment.offset :] = segment.data.tobytes()
    assert bytes(pieces["weight_scale"]) == whole.scale.tobytes()
    importance = np.linspace(0, 4, 75).astype(np.float32)
    weighed = encode(weights, Scheme.parse("int3:g32+hqq+imp"), importance=importance)
    plain = encode(weights, Scheme.parse("int3:g32+hqq"))
    loss = [float((importance * np.abs(weights - one.dequantize()) ** NORM).sum()) for one in (weighed, plain)]
    assert loss[0] < loss[1]
    inputs = np.random.default_rng(4).normal(size=(300, 75))
    hessian = (inputs.T @ inputs).astype(np.float32)
    for text in ("int3:g32+hqq+gptq", "int3:g32:dq8+hqq+gptq"):
        quantized = encode_gptq(weights, Scheme.parse(text), hessian, multipliers=(), rounds=0)
        quantized.validate()
        assert not np.array_equal(quantized.scale, encode_gptq(weights, Scheme.parse(text.replace("+hqq", ":mse")), hessian).scale)
