"""Windows that a model writes: by the seed, from its own distribution, beginning with BOS."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import GeneratedText
from kbit.calibrate.generated import first_token
from kbit.core.errors import ModelError, SchemeError

from .conftest import VOCABULARY

Make = Callable[[str], nn.Module]


def test_same_seed_same_tokens(make_model: Make) -> None:
    text = GeneratedText(tokens=70 * 8, context=512, seed=3)
    one, other = (text.windows(make_model("llama"), 1, positions=8) for _ in range(2))
    assert one.ids.shape == (70, 8)
    assert one.digest == other.digest
    assert one.seed == 3
    assert (one.ids[:, 0] == 1).all()
    assert one.ids.max() < VOCABULARY
    assert GeneratedText(tokens=70 * 8, seed=4).windows(make_model("llama"), 1, positions=8).digest != one.digest
    assert len(np.unique(one.ids, axis=0)) > 60


def test_tokens_are_drawn_from_what_the_model_says(make_model: Make) -> None:
    model = make_model("gpt2")
    ids = torch.from_numpy(GeneratedText(tokens=6000, context=3).windows(model, 5).ids)
    with torch.no_grad():
        first = model(input_ids=torch.tensor([[5]])).logits[0, -1].double().softmax(0).numpy()
    counts = np.bincount(ids[:, 1], minlength=VOCABULARY)
    expected = first * len(ids)
    assert ((counts - expected) ** 2 / np.maximum(expected, 1)).sum() < 3 * VOCABULARY
    assert model.training is False


def test_where_a_text_begins() -> None:
    assert first_token({"bos_token_id": 3, "eos_token_id": 2}) == 3
    assert first_token({"bos_token_id": None, "eos_token_id": [7, 8]}) == 7
    with pytest.raises(ModelError, match="neither bos_token_id nor eos_token_id"):
        first_token({"bos_token_id": True})


def test_what_cannot_write(make_model: Make) -> None:
    with pytest.raises(SchemeError, match="calibration tokens"):
        GeneratedText(tokens=0)
    with pytest.raises(ModelError, match="causal model with a cache"):
        GeneratedText(tokens=8, context=4).windows(make_model("bert"), 1)
    model = make_model("llama")
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="finite logits"):
        GeneratedText(tokens=8, context=4).windows(model, 1)
