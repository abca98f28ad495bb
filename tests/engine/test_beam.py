"""Beam search finds what transformers' `generate(num_beams=…)` finds, and leaves nothing in the cache."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import LimitError, NumericsError
from kbit.engine.beam import BeamSearch
from kbit.engine.beam_options import BeamOptions
from kbit.engine.logprobs import log_softmax
from kbit.engine.sampling_options import SamplingOptions

from .fakes import HashStepper
from .torch_stepper import TorchStepper

torch = pytest.importorskip("torch")

PROMPT = [3, 9, 27, 11]


def _theirs(model: Any, prompt: list[int], max_tokens: int, ends: list[int] | None, **options: Any) -> tuple[list[list[int]], list[float]]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=ends,
            pad_token_id=model.config.vocab_size - 1,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    return [_unpadded(row[len(prompt) :].tolist(), ends or []) for row in found.sequences], found.sequences_scores.tolist()


def _unpadded(tokens: list[int], ends: list[int]) -> list[int]:
    place = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: place + 1]


def _ours(
    stepper: Any, prompt: list[int], max_tokens: int, ends: list[int] | None, options: BeamOptions, sampling: SamplingOptions | None = None
) -> tuple[list[list[int]], list[float]]:
    search = BeamSearch(stepper, options, sampling or SamplingOptions(), max_tokens=max_tokens, ends=frozenset(ends or []))
    found = search.run(prompt)
    assert not stepper.live
    return [one.tokens[len(prompt) :].tolist() for one in found], [float(one.score) for one in found]


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("beams", [2, 3, 8])
def test_transformers_finds_the_same(
    beams: int, length_penalty: float, early_stopping: Any, steppers: Callable[[int], TorchStepper]
) -> None:
    for seed, ends in ((0, [5, 6, 7]), (1, [2]), (2, None)):
        stepper = steppers(seed)
        options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        theirs = _theirs(stepper.model, PROMPT, 12, ends, num_beams=beams, num_return_sequences=beams, **options)
        ours = _ours(stepper, PROMPT, 12, ends, BeamOptions(beams, returned=beams, **options))
        assert ours[0] == theirs[0]
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [-0.2, 1.0, 2.0])
def test_when_to_end(length_penalty: float, steppers: Callable[[int], TorchStepper]) -> None:
    """Texts that end soon, so that it matters how long the search looks for better ones."""
    found: dict[Any, list] = {True: [], False: [], "never": []}
    for seed in range(4, 10):
        stepper, ends = steppers(seed), [5, 6, 7, 8]
        for early_stopping, of_all in found.items():
            options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
            theirs = _theirs(stepper.model, PROMPT, 30, ends, num_beams=3, num_return_sequences=3, **options)[0]
            assert _ours(stepper, PROMPT, 30, ends, BeamOptions(3, returned=3, **options))[0] == theirs
            of_all.append(theirs)
    assert (found[True] != found[False]) == (length_penalty > 0)
    assert (found["never"] != found[False]) == (length_penalty > 0)


@pytest.mark.parametrize("beams", [4, 5, 6, 7])
def test_with_processors(beams: int, steppers: Callable[[int], TorchStepper]) -> None:
    stepper, ends = steppers(3), [5, 6]
    theirs = _theirs(
        stepper.model,
        PROMPT,
        14,
        ends,
        num_beams=beams,
        repetition_penalty=1.4,
        no_repeat_ngram_size=2,
        sequence_bias=[[[5], 1.5], [[8], -2.0]],
    )
    sampling = SamplingOptions(repetition_penalty=1.4, no_repeat_ngram=2, logit_bias={5: 1.5, 8: -2.0})
    assert _ours(stepper, PROMPT, 14, ends, BeamOptions(beams), sampling)[0] == theirs[0]


@pytest.fixture(scope="module")
def steppers(tiny_llama: Callable[..., Any]) -> Callable[[int], TorchStepper]:
    made: dict[int, TorchStepper] = {}

    def of(seed: int) -> TorchStepper:
        return made.setdefault(seed, TorchStepper(tiny_llama(seed)))

    return of


@pytest.mark.parametrize("beams", [2, 5])
def test_a_trained_model(beams: int, shared_data: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    folder = shared_data / "models" / "quill-0.4m"
    stepper = TorchStepper(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    prompt = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("It was a dark night, and the old man").ids
    theirs = _theirs(stepper.model, prompt, 24, [0], num_beams=beams, num_return_sequences=2)
    assert _ours(stepper, prompt, 24, [0], BeamOptions(beams, returned=2))[0] == theirs[0]


def test_enough_beams_find_the_best_of_all() -> None:
    """Brute force: with as many beams as there are continuations, nothing better is missed."""
    stepper = HashStepper(vocabulary=4)
    found, scores = _ours(stepper, [1], 3, None, BeamOptions(beams=64, length_penalty=0.0, returned=64))
    assert found[0] == max((list(tokens) for tokens in np.ndindex(4, 4, 4)), key=_logprob)
    assert len({tuple(tokens) for tokens in found}) == 64
    np.testing.assert_allclose(scores, [_logprob(tokens) for tokens in found], rtol=1e-5)


def _logprob(tokens: list[int]) -> float:
    stepper, total = HashStepper(vocabulary=4), 0.0
    from kbit.engine.stepper import Feed

    sequence, before = stepper.sequence(), 1
    for token in tokens:
        total += float(log_softmax(stepper.step([Feed(sequence, (before,))]))[0, token])
        before = token
    return total


def test_log_probabilities_of_the_output() -> None:
    stepper = HashStepper()
    search = BeamSearch(stepper, BeamOptions(beams=3, length_penalty=0.0), SamplingOptions(), max_tokens=5, logprobs=2)
    best = search.run([1, 2])[0]
    assert [named.token for named in best.logprobs] == best.tokens[2:].tolist()
    assert sum(named.logprob for named in best.logprobs) == pytest.approx(float(best.score), rel=1e-5)
    assert all(len(named.top) == 2 for named in best.logprobs)


def test_drawn_beams_hang_on_the_seed() -> None:
    def found(seed: int) -> list[list[int]]:
        return _ours(HashStepper(), [1], 8, [4], BeamOptions(3, returned=3), SamplingOptions(temperature=1.0, seed=seed))[0]

    assert found(1) == found(1)
    assert len({tuple(map(tuple, found(seed))) for seed in range(5)}) == 5


def test_continuations_are_drawn_as_often_as_they_are_likely() -> None:
    """One step of two beams: the first of the draw is distributed like the softmax."""
    counts = np.zeros(6)
    for seed in range(3000):
        search = BeamSearch(HashStepper(6, spread=1.0), BeamOptions(2), SamplingOptions(temperature=0.8, seed=seed), max_tokens=2)
        search._sequences, search._prompt_length = [0], 1
        search._running = search._running or [_start()]
        counts[search._continuations(_logits())[0].token] += 1
    expected = 3000 * np.exp(log_softmax(log_softmax(_logits())[0] / np.float32(0.8)))
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square of 5 degrees at 0.001


def _start() -> Any:
    from kbit.engine.beam import Hypothesis

    return Hypothesis(np.array([1], dtype=np.int32), np.float32(0))


def _logits() -> np.ndarray:
    return np.float32([[0.1, 1.0, -0.4, 0.7, 0.0, 0.3]])


def test_another_reason_to_end() -> None:
    options, ends = BeamOptions(beams=3, returned=3), lambda output: 7 in output[-1:]
    search = BeamSearch(HashStepper(), options, SamplingOptions(), max_tokens=40, finishes=ends)
    assert all(one.tokens[-1] == 7 or len(one.tokens) == 41 for one in search.run([1]))


@pytest.mark.parametrize("allowed", [0, 1, 4])
def test_a_deadline_gives_the_best_so_far(allowed: int) -> None:
    stepper, asked = HashStepper(), []

    def expired() -> bool:
        asked.append(len(stepper.rows))
        return len(stepper.rows) >= allowed

    search = BeamSearch(stepper, BeamOptions(beams=3), SamplingOptions(), max_tokens=30)
    (best,) = search.run([1, 2, 3], expired)
    assert search.expired
    assert len(best.tokens) == 3 + allowed
    assert not stepper.live


def test_as_many_sequences_as_beams_are_enough() -> None:
    stepper = HashStepper(sequences=4)
    assert len(_ours(stepper, [1, 2, 3], 30, None, BeamOptions(beams=4))[0][0]) == 30


def test_a_filter_leaves_something_beside_the_ends() -> None:
    """A draw from the one likeliest token, were that an end, would leave nothing to go on to."""
    sampling = SamplingOptions(temperature=1.0, top_k=1, top_p=0.0, min_p=1.0)
    search = BeamSearch(HashStepper(6), BeamOptions(1), sampling, max_tokens=9, ends=frozenset([1, 3]))
    search._prompt_length, search._running = 1, [_start()]
    assert {one.token for one in search._continuations(_logits())} == {1, 3, 5}


def test_a_full_cache_frees_what_it_had() -> None:
    for stepper in (HashStepper(capacity=20), HashStepper(sequences=3)):
        with pytest.raises(LimitError):
            BeamSearch(stepper, BeamOptions(beams=4), SamplingOptions(), max_tokens=30).run([1, 2, 3])
        assert not stepper.live


def test_broken_logits() -> None:
    stepper = HashStepper(vocabulary=4, poison=2)
    with pytest.raises(NumericsError):
        BeamSearch(stepper, BeamOptions(beams=4), SamplingOptions(), max_tokens=9).run([1])
    assert not stepper.live


def test_nothing_to_go_on_to_keeps_what_ran() -> None:
    found, _ = _ours(HashStepper(vocabulary=3), [0], 9, None, BeamOptions(beams=2), SamplingOptions(no_repeat_ngram=1))
    assert sorted(found[0]) == [1, 2]


def test_an_interrupt_frees_the_sequences() -> None:
    stepper = HashStepper()

    def expired() -> bool:
        if len(stepper.rows) == 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        BeamSearch(stepper, BeamOptions(beams=3), SamplingOptions(), max_tokens=30).run([1], expired)
    assert not stepper.live
