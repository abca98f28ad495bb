"""Beam search as text: stop strings, reasons to end, the other continuations."""

from typing import Any

import pytest

from kbit.engine.beam import BeamSearch
from kbit.engine.beam_options import BeamOptions
from kbit.engine.beam_text import beam_text
from kbit.engine.detokenize import Detokenizer
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.sampling_options import SamplingOptions

from .fakes import HashStepper

PROMPT = (70, 71, 72)


def _run(byte_level: Any, stepper: HashStepper | None = None, letters: range = range(100), **options: Any) -> Generated:
    stepper = stepper or HashStepper(262)
    # few bytes only, so that texts are easy to read
    bias = {token: -float("inf") for token in range(262) if token not in letters}
    sampling = SamplingOptions(logit_bias=bias)
    found = beam_text(stepper, Detokenizer(byte_level), PROMPT, GenerateOptions(sampling=sampling, **options))
    assert not stepper.live
    return found


def test_the_best_and_the_others(byte_level: Any) -> None:
    found = _run(byte_level, max_tokens=8, beam=BeamOptions(beams=4, returned=3), logprobs=1)
    assert len(found.others) == 2
    every = (found, *found.others)
    assert [one.score for one in every] == sorted((one.score for one in every), reverse=True)
    for one in every:
        assert one.text == byte_level.decode(one.token_ids)
        assert one.finish_reason == "length"
        assert [named.token for named in one.logprobs or ()] == one.token_ids
    assert found.prefill_ms > 0
    assert found.decode_ms > 0


def test_an_ending_token_is_not_shown(byte_level: Any) -> None:
    found = _run(byte_level, max_tokens=60, beam=BeamOptions(beams=3), ends=frozenset(range(20)))
    assert found.finish_reason == "stop"
    assert found.token_ids[-1] < 20
    assert found.text == byte_level.decode(found.token_ids[:-1])


def test_stop_strings_end_beams(byte_level: Any) -> None:
    stops = ("ab", "cde", "ee", "dad")
    letters = range(byte_level.token_to_id("a"), byte_level.token_to_id("f"))
    found = _run(byte_level, letters=letters, max_tokens=60, beam=BeamOptions(beams=4, returned=4, early_stopping=True), stop=stops)
    for one in (found, *found.others):
        assert one.finish_reason == "stop"
        assert one.stop in stops
        assert not any(stop in one.text for stop in stops)
        assert byte_level.decode(one.token_ids) == one.text + one.stop


def test_the_context_ends_it(byte_level: Any) -> None:
    assert len(_run(byte_level, HashStepper(262, context=8), beam=BeamOptions(beams=2)).token_ids) == 5


@pytest.mark.parametrize("limit", [0.001, 30.0])
def test_a_deadline(limit: float, byte_level: Any) -> None:
    found = _run(byte_level, max_tokens=100_000, beam=BeamOptions(beams=2), max_time_ms=limit)
    assert found.finish_reason == "deadline"
    assert bool(found.token_ids) == (limit > 1)


def test_it_is_the_search(byte_level: Any) -> None:
    search = BeamSearch(HashStepper(262), BeamOptions(beams=3), SamplingOptions(), max_tokens=9)
    found = beam_text(HashStepper(262), Detokenizer(byte_level), PROMPT, GenerateOptions(max_tokens=9, beam=BeamOptions(beams=3)))
    assert found.token_ids == search.run(PROMPT)[0].tokens[3:].tolist()
