"""`describe`: the way from a configuration to its entry."""

from contextlib import suppress
from typing import Any

import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import MODEL_TYPES, describe, describe_encoder_decoder

from ..models import IMAGES, KINDS, PAIRS, config_of


def test_every_entry_is_tried_on_a_model() -> None:
    assert set(MODEL_TYPES) == {config_of(name)["model_type"] for name in (*KINDS, *IMAGES)}


@pytest.mark.parametrize("name", KINDS)
def test_architectures_carry_the_name_of_their_type(name: str) -> None:
    architecture = describe(config_of(name), KINDS[name].context)
    assert architecture.name == config_of(name)["model_type"]
    assert architecture == describe(config_of(name), KINDS[name].context)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("lama", "'model_type': the engine knows no 'lama': did you mean 'llama'"),
        ("gemma3", "did you mean 'gemma' or 'gemma2' or 'gemma3_text'"),
        (None, "the engine knows no None: known: bert, bloom"),
        (["llama"], r"the engine knows no \['llama'\]"),
    ],
)
def test_unknown_types_are_refused(model_type: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        describe({"model_type": model_type})


def test_a_configuration_without_type_is_refused() -> None:
    with pytest.raises(ModelError, match="the engine knows no None"):
        describe({})


ODD: tuple[Any, ...] = (None, True, -1, 0, 7, 10**30, 0.0, -1.5, 1e39, "", "odd", [], [None], [3], {}, {"rope_type": []}, {"factor": "x"})


@pytest.mark.parametrize("name", [*KINDS, *PAIRS, *IMAGES])
def test_odd_values_are_refused_or_read_but_never_crash(name: str) -> None:
    config, read = config_of(name), describe_encoder_decoder if name in PAIRS else describe
    for key in (*config, "rope_scaling", "rope_theta", "sliding_window", "layer_types"):
        for value in ODD:
            with suppress(ModelError):
                read({**config, key: value})
