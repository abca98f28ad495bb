import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_pairs_are_neighbours() -> None:
    rotary = describe(config_of("gptj")).layers[0].attention.rotary
    assert rotary is not None
    assert (rotary.interleaved, len(rotary.frequencies)) == (True, 3)


@pytest.mark.parametrize("dims", [14, 5])
def test_rotated_dimensions_must_fit_a_head(dims: int) -> None:
    with pytest.raises(ModelError, match=f"gptj: 'rotary_dim': expected an even number of at most 12 dimensions of a head, got {dims}"):
        describe(config_of("gptj") | {"rotary_dim": dims})
