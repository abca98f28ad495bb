import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.tensor.scales import E4M3_VALUES, SCALE_LIMITS, decode_scale, round_scale, scale_anchor, super_scale_for

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_published_e4m3_values():
    # OCP 8-bit Floating Point Specification 1.0, table 2
    assert E4M3_VALUES[0x7E] == 448
    assert E4M3_VALUES[0x08] == 2.0**-6
    assert E4M3_VALUES[0x07] == 0.875 * 2.0**-6
    assert E4M3_VALUES[0x01] == 2.0**-9
    assert E4M3_VALUES[0x38] == 1.0
    assert E4M3_VALUES[0xC1] == -2.25
    assert np.isnan(E4M3_VALUES[[0x7F, 0xFF]]).all()
    assert np.count_nonzero(np.isnan(E4M3_VALUES)) == 2


def test_every_e4m3_code_rounds_to_itself_but_minus_zero():
    codes = np.setdiff1d(np.arange(256), [0x7F, 0xFF, 0x80]).astype(np.uint8)
    stored, value = round_scale(E4M3_VALUES[codes], np.ones(1, np.float32), "e4m3")
    assert np.array_equal(stored, codes)
    assert np.array_equal(value, E4M3_VALUES[codes])


def test_e4m3_ties_go_to_even():
    low = np.arange(126)
    middle = ((E4M3_VALUES[low].astype(np.float64) + E4M3_VALUES[low + 1]) / 2).astype(np.float32)
    stored, _ = round_scale(middle, np.ones(1, np.float32), "e4m3")
    assert np.array_equal(stored, low + low % 2)
    stored, _ = round_scale(np.nextafter(middle, np.float32(500)), np.ones(1, np.float32), "e4m3")
    assert np.array_equal(stored, low + 1)


@pytest.mark.parametrize("scale_dtype", ["fp16", "e4m3", "dq8"])
@settings(max_examples=60, deadline=None)
@given(scale=finite, unit=st.floats(0, 2.0**100, width=32))
def test_rounding_is_nearest_saturating_and_decodes_to_what_it_says(scale_dtype, scale, unit):
    scales = np.full((1, 1, 16), scale, np.float32)
    supers = None if scale_dtype == "fp16" else np.array([unit], np.float32)
    stored, value = round_scale(scales, supers, scale_dtype)
    assert np.array_equal(decode_scale(stored, supers, scale_dtype), value)
    assert np.isfinite(value).all() or unit > 1e30
    if supers is not None and unit == 0:
        assert not stored.any()
        return
    step = 1.0 if supers is None else float(supers[0])
    with np.errstate(over="ignore"):
        candidates = {
            "fp16": np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64),
            "e4m3": E4M3_VALUES[:127].astype(np.float64),
            "dq8": np.arange(128.0),
        }[scale_dtype] * step
    best = np.abs(candidates - abs(float(scales[0, 0, 0]))).min()
    got = abs(float(stored.reshape(-1).view({"fp16": np.float16, "e4m3": np.uint8, "dq8": np.int8}[scale_dtype])[0]))
    got = abs(float(E4M3_VALUES[stored[0, 0, 0]])) if scale_dtype == "e4m3" else got
    assert abs(got * step - abs(float(scales[0, 0, 0]))) <= best * (1 + 1e-6) + abs(float(scales[0, 0, 0])) * 2.0**-23


def test_zero_is_stored_as_plus_zero():
    tiny = np.array([-1e-30, 1e-30, -0.0, 0.0], np.float32)
    for scale_dtype in SCALE_LIMITS:
        stored, value = round_scale(tiny, None if scale_dtype == "fp16" else np.ones(1, np.float32), scale_dtype)
        assert not stored.any()
        assert not np.signbit(value).any()


def test_anchor_is_the_level_of_largest_magnitude():
    assert scale_anchor(np.array([-8, 0, 7], np.float32)) == (-8, False)
    assert scale_anchor(np.array([-0.5, 0, 1], np.float32)) == (1, False)
    assert scale_anchor(np.array([-1, 0, 1], np.float32)) == (1, True)
    assert scale_anchor(np.array([0, 1, 3], np.float32)) == (3, False)


def test_super_scale_maps_the_largest_to_the_limit():
    for scale_dtype, limit in (("e4m3", 448), ("dq8", 127)):
        assert super_scale_for(np.float32(limit), scale_dtype, -8.0) == 1
        assert np.isfinite(super_scale_for(np.float32(3e38), scale_dtype, -8.0) * np.float32(limit) * np.float32(8))
        assert super_scale_for(np.float32(0), scale_dtype, 0.0) == 0


def test_nan_codes_decode_to_nan_for_the_validator_to_see():
    assert np.isnan(decode_scale(np.full((1, 1, 16), 0x7F, np.uint8), np.ones(1, np.float32), "e4m3")).all()
    assert np.isinf(decode_scale(np.full((1, 1, 16), 0x7C00, np.uint16), None, "fp16")).all()
