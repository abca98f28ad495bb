"""What hypothesis draws schemes from."""

from hypothesis import strategies as st

from kbit.core.data_types import GRIDS, VECTOR_BITS, VECTOR_GRIDS
from kbit.core.scheme import KEEP, Scheme

GROUPS = st.just(-1) | st.integers(1, 64).map(lambda n: 16 * n)
METHOD_TEXTS = [(), ("imp",), ("gptq",), ("imp", "gptq"), ("actorder", "gptq"), ("imp", "actorder", "gptq")]


@st.composite
def schemes(draw):
    """Every scheme there is."""
    if draw(st.integers(0, 19)) == 0:
        return KEEP
    grid = draw(st.sampled_from(sorted(GRIDS)))
    bits = draw(st.sampled_from(GRIDS[grid]))
    values = {"group_size": draw(GROUPS), "scale_search": draw(st.sampled_from(["absmax", "mse"]))}
    values["scale_dtype"] = draw(st.sampled_from(["fp16", "e4m3", "dq8"]))
    if grid == "float":
        values["exponent_bits"] = draw(st.none() | st.integers(1, min(5, bits - 1)))
    if grid == "log":
        values["per_octave"] = draw(st.none() | st.integers(1, 16))
    if grid == "int":
        values["symmetric"] = draw(st.booleans())
    if grid in VECTOR_GRIDS:
        dims = values["dims"] = draw(st.sampled_from(sorted(VECTOR_BITS)))
        bits = draw(st.sampled_from(VECTOR_BITS[dims]))
        values["group_size"] = draw(st.just(-1) | st.integers(1, 1024 // (32 * dims)).map(lambda n: 32 * dims * n))
    values["methods"] = draw(st.sampled_from(METHOD_TEXTS))
    if grid == "trellis":
        values["scale_dtype"] = draw(st.sampled_from(["fp16", "e4m3"]))
        values["methods"] = tuple(method for method in values["methods"] if method != "actorder")
    return Scheme(grid, bits, **values)
