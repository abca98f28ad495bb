import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_logits_are_a_sixteenth_unless_it_says_otherwise() -> None:
    config = config_of("cohere")
    del config["logit_scale"]
    assert describe(config).head.scale == 0.0625
    assert describe(config).head.tied


def test_a_norm_for_each_head_is_refused() -> None:
    with pytest.raises(ModelError, match="cohere: 'use_qk_norm': expected False, got True"):
        describe(config_of("cohere") | {"use_qk_norm": True})
