import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


@pytest.mark.parametrize("word", ["su", "yarn"])
def test_phi3s_older_words_for_longrope(word: str) -> None:
    config = config_of("phi3_short")
    scaling = dict(config["rope_parameters"])
    scaling.pop("rope_type")
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    old |= {"rope_scaling": {"type": word, **scaling}}
    assert describe(old) == describe(config)


def test_phi_rotates_half_of_a_head_unless_it_says_otherwise() -> None:
    config = config_of("phi") | {"rope_parameters": None, "partial_rotary_factor": None}
    rotary = describe(config).layers[0].attention.rotary
    assert rotary is not None
    assert len(rotary.frequencies) == 3


def test_phi3_knows_no_other_scaling() -> None:
    with pytest.raises(ModelError, match="phi3: rope_parameters: 'rope_type': expected a scaling"):
        describe(config_of("phi3") | {"rope_parameters": {"rope_type": "dynamic"}})
