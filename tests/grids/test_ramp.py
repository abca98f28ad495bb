import numpy as np
import pytest

from kbit.grids.ramp import float32_ramp


@pytest.mark.parametrize("count", [2, 3, 9, 65, 129])
def test_ends_and_spacing(count: int) -> None:
    ramp = float32_ramp(0.1, 1.0, count)
    assert ramp.dtype == np.float32
    assert (ramp[0], ramp[-1]) == (np.float32(0.1), np.float32(1))
    np.testing.assert_allclose(ramp, np.linspace(0.1, 1, count), rtol=3e-7)


def test_values_are_rounded_once_from_both_ends() -> None:
    """Pinned: these differ from a float64 ramp that is rounded at the end."""
    assert float32_ramp(0.9677083, 0.5, 9).tolist() == [
        0.9677082896232605,
        0.9092447757720947,
        0.8507812023162842,
        0.7923176884651184,
        0.7338541746139526,
        0.6753906011581421,
        0.6169270873069763,
        0.5584635138511658,
        0.5,
    ]


def test_equals_the_ramp_of_the_published_code() -> None:
    torch = pytest.importorskip("torch")
    for count in (2, 3, 8, 9, 65):
        np.testing.assert_array_max_ulp(float32_ramp(0.1, 1.0, count), torch.linspace(0.1, 1, count).numpy(), maxulp=1)
