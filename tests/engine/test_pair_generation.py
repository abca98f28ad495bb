"""Generation over models that encode one text and decode another: token for token what transformers' `generate` writes."""

from typing import Any

import pytest
import torch

from kbit.engine.beam import BeamSearch
from kbit.engine.beam_options import BeamOptions
from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.generate import generate, generate_batch
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.sampling_options import SamplingOptions

from .conftest import Checkpoint
from .models import PAIRS, build, text

TOKENS = 24
#: tokens that end a text, more than a model has, so that some do
ENDS = [1, 20, 21, 22, 23]


def load(checkpoint: Checkpoint, name: str) -> EncoderDecoderEngine:
    return EncoderDecoderEngine.load(
        checkpoint(name), mode="exact", cache="fp32", memory="fp32", cache_positions=8192, memory_positions=1024
    )


def theirs(model: Any, source: list[int], start: int | None, **options: Any) -> tuple[list[list[int]], list[float]]:
    """Outputs, without the token that a decoder begins with, and up to what ends them; and the scores of beams."""
    model.generation_config.forced_eos_token_id = model.generation_config.forced_bos_token_id = None
    ids = torch.tensor([source])
    # no cache: transformers' counts the encoder's layers, of which these models have fewer
    options |= {"use_cache": False, "do_sample": False, "max_new_tokens": TOKENS, "return_dict_in_generate": True, "output_scores": True}
    tokens = {"decoder_start_token_id": start, "eos_token_id": ENDS, "pad_token_id": 0}
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **tokens, **options)
    scores = getattr(found, "sequences_scores", None)
    return [cut(row[1:].tolist()) for row in found.sequences], [] if scores is None else scores.tolist()


def cut(tokens: list[int]) -> list[int]:
    return tokens[: next((place + 1 for place, token in enumerate(tokens) if token in ENDS), TOKENS)]


@pytest.mark.parametrize("name", PAIRS)
def test_greedy_writes_what_transformers_writes(name: str, checkpoint: Checkpoint, byte_level: Any) -> None:
    model, engine = build(name), load(checkpoint, name)
    options = GenerateOptions(max_tokens=TOKENS, ends=frozenset(ENDS))
    for seed in range(4):
        source = text(5 + 9 * seed, seed)
        with engine.source(source) as stepper:
            assert generate(stepper, byte_level, [engine.start], options).token_ids == theirs(model, source, engine.start)[0][0]
    assert engine._decoder._lengths == engine._memories == {}


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_beams_write_what_transformers_writes(name: str, beams: int, checkpoint: Checkpoint) -> None:
    model, engine = build(name), load(checkpoint, name)
    for seed, penalty in ((4, 1.0), (5, 0.6), (6, 2.0)):
        source = text(20, seed)
        with engine.source(source) as stepper:
            search = BeamSearch(
                stepper, BeamOptions(beams, penalty, returned=beams), SamplingOptions(), max_tokens=TOKENS, ends=frozenset(ENDS)
            )
            found = search.run([engine.start])
        tokens, scores = theirs(model, source, engine.start, num_beams=beams, num_return_sequences=beams, length_penalty=penalty)
        # A random model repeats itself: texts that differ in the place of one token tie but for the last bits while they run, and which of
        # them is dropped at the edge of the beams is torch's rounding against ours. What took its place is as good.
        assert [float(one.score) for one in found] == pytest.approx(scores, abs=2e-4)
        differing = [one for one, wanted in zip(found, tokens, strict=True) if one.tokens[1:].tolist() != wanted]
        assert len(differing) <= 2
        assert found[0].tokens[1:].tolist() == tokens[0]
    assert engine._decoder._lengths == engine._memories == {}


def test_one_source_serves_a_batch(checkpoint: Checkpoint, byte_level: Any) -> None:
    engine = load(checkpoint, "bart")
    options = GenerateOptions(max_tokens=9, sampling=SamplingOptions(temperature=1.0, seed=3))
    prompts = [[1], [1, 5], [1, 9, 11]]
    with engine.source(text(30, 1)) as stepper:
        alone = [generate(stepper, byte_level, prompt, options).token_ids for prompt in prompts]
        assert [found.token_ids for found in generate_batch(stepper, byte_level, prompts, options)] == alone
    stepper.close()
    assert engine._decoder._lengths == engine._memories == {}
