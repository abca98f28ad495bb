"""Models that encode one text and decode another, against transformers: whole, token by token, several at once, and packed."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model
from kbit.core.errors import LimitError, ModelError, NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.architectures import ENCODER_DECODER_TYPES
from kbit.engine.feeds import Feed
from kbit.engine.listing import plan_text
from kbit.engine.plan import make_encoder_decoder_plan, make_plan
from kbit.engine.weights import ModelWeights
from kbit.model import quantize_folder
from kbit.store.folder import open_model

from .conftest import Checkpoint, Pairs
from .models import CONTEXT, PAIRS, answer_pair, build, config_of, difference, text

TOLERANCE = 1e-5

#: the decoder's vocabulary is smaller than the encoder's in one of them
TARGET = 83


def target(length: int, seed: int) -> list[int]:
    return text(length, seed, TARGET)


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_transformers(name: str, checkpoint: Checkpoint, pairs: Pairs) -> None:
    model, engine = build(name), pairs(checkpoint(name))
    sources, targets = (text(19, 1), text(7, 2)), (target(15, 3), target(9, 4))
    expected = [answer_pair(model, source, into) for source, into in zip(sources, targets, strict=True)]

    whole = engine.step([Feed(engine.sequence(sources[0]), targets[0], "all")])
    assert difference(whole, expected[0]) < TOLERANCE

    sequence = engine.sequence(sources[0])
    each = np.concatenate([engine.step([Feed(sequence, [token])]) for token in targets[0]])
    assert difference(each, expected[0]) < TOLERANCE

    old, new = (engine.sequence(source) for source in sources)
    engine.step([Feed(old, targets[0][:6], "none")])
    both = engine.step([Feed(new, targets[1], "all"), Feed(old, targets[0][6:], "all")])
    assert difference(both[: len(targets[1])], expected[1]) < TOLERANCE
    assert difference(both[len(targets[1]) :], expected[0][6:]) < TOLERANCE


@pytest.mark.parametrize("name", PAIRS)
def test_packed_models_agree(name: str, checkpoint: Checkpoint, pairs: Pairs, tmp_path: Path) -> None:
    plan = Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int6:g-1"))
    quantize_folder(checkpoint(name), tmp_path / "packed", plan, progress=False)
    model = kbit.model.load(tmp_path / "packed", mode="exact", attn_implementation="eager")
    engine, source, into = pairs(tmp_path / "packed"), text(13, 1), target(11, 2)
    assert difference(engine.step([Feed(engine.sequence(source), into, "all")]), answer_pair(model, source, into)) < TOLERANCE


@pytest.mark.parametrize("name", PAIRS)
def test_encoders_answer_with_their_states(name: str, checkpoint: Checkpoint, pairs: Pairs) -> None:
    model, source = build(name), text(13, 1)
    with torch.no_grad():
        expected = model.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state[0].numpy()
    assert difference(pairs(checkpoint(name)).encode(source), expected) < TOLERANCE


def test_forks_share_a_memory(checkpoint: Checkpoint, pairs: Pairs) -> None:
    engine, into = pairs(checkpoint("bart")), target(9, 2)
    origin = engine.sequence(text(13, 1))
    engine.step([Feed(origin, [*into[:6], 5], "none")])
    engine.truncate(origin, 6)
    fork = engine.fork(origin, 4)
    assert (engine.length(origin), engine.length(fork)) == (6, 4)
    rows = engine.step([Feed(origin, into[6:]), Feed(fork, into[4:])])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4, atol=1e-5)
    engine.free(origin)
    with pytest.raises(NumericsError, match=f"sequence {origin} is not alive"):
        engine.step([Feed(origin, [1])])


def test_sources_are_checked_and_leave_nothing_behind(checkpoint: Checkpoint, pairs: Pairs) -> None:
    engine = pairs(checkpoint("bart"))
    with pytest.raises(LimitError, match=f"expected at most {CONTEXT} positions"):
        engine.sequence([3] * (CONTEXT + 1))
    with pytest.raises(NumericsError, match="expected token ids in 0…96, got 97"):
        engine.encode([97])
    assert engine.encode([3]).shape == (1, 48)


def test_a_text_begins_where_the_model_says(checkpoint: Checkpoint, pairs: Pairs) -> None:
    assert pairs(checkpoint("t5")).plan.start == 0
    assert pairs(checkpoint("marian")).plan.start == 1


def test_one_kind_of_plan_is_not_the_other(checkpoint: Checkpoint) -> None:
    assert set(ENCODER_DECODER_TYPES) == {config_of(name)["model_type"] for name in PAIRS}
    with open_model(checkpoint("t5")) as stored, pytest.raises(ModelError, match="expected a decoder or an encoder alone, got 't5'"):
        make_plan(stored.config, ModelWeights(stored))
    with open_model(checkpoint("llama")) as stored, pytest.raises(ModelError, match="expected an encoder with a decoder, got 'llama'"):
        make_encoder_decoder_plan(stored.config, ModelWeights(stored))


LINES = {
    "t5": (
        "layer 0, 4 heads on 4 of 10, encoder.block.0.layer.0.SelfAttention.relative_attention_bias 8×4 f32, both ways",
        "linear x → memory decoder.block.2.layer.1.EncDecAttention.k 40×48 f32, …v 40×48 f32",
        "remember memory → memory layer 2, 4 heads of 10",
        "attention queries, memory → mixed layer 2, 4 heads on 4 of 10",
        "linear wanted → logits rms norm decoder.final_layer_norm, shared 97×48 f32, times 0.144338",
    ),
    "marian": ("waves position → +x 24 frequencies", "linear wanted → logits model.shared 97×48 f32 + bias"),
}


@pytest.mark.parametrize("name", LINES)
def test_plans_read_well(name: str, checkpoint: Checkpoint) -> None:
    with open_model(checkpoint(name)) as stored:
        weights = ModelWeights(stored)
        plan = make_encoder_decoder_plan(stored.config, weights)
        listing = " ".join((plan_text(plan.encoder, weights) + plan_text(plan.decoder, weights)).split())
    for line in LINES[name]:
        assert line in listing
