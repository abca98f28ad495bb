"""Whatever else is in the batch, each request gets the tokens that it would get alone, and nothing stays in the cache."""

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import LimitError, ModelError, NumericsError, SchemeError
from kbit.engine.batch import Scheduler
from kbit.engine.draft_model import DraftModel
from kbit.engine.drafts import Draft
from kbit.engine.history import History
from kbit.engine.logprobs import log_softmax, token_logprob
from kbit.engine.prompt_lookup import PromptLookup
from kbit.engine.request import Output, Request
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Feed

from .fakes import HashStepper, alone

VOCABULARY, CONTEXT = 6, 90


class _Ticks:
    """A clock that moves a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


def _random_request(random: np.random.Generator, beginnings: list[list[int]], guesses: HashStepper) -> Request:
    beginning = beginnings[random.integers(len(beginnings))][: random.integers(0, 40)]
    prompt = (*beginning, *random.integers(0, VOCABULARY, random.integers(1, 25)).tolist())
    sampling = SamplingOptions(
        temperature=float(random.choice([0.0, 0.7, 1.2])),
        top_k=int(random.choice([0, 3])),
        top_p=float(random.choice([1.0, 0.9])),
        repetition_penalty=float(random.choice([1.0, 1.2])),
        frequency_penalty=float(random.choice([0.0, 0.3])),
        seed=int(random.integers(2**63)),
    )
    lookup, model = PromptLookup(2, 1), DraftModel(guesses, sampling, VOCABULARY)
    # drafts drawn from a model keep the distribution, not the tokens: only greedy requests take them here
    drafter = [None, lookup, lookup if sampling.draws else model][random.integers(3)]
    ends = frozenset([3]) if random.random() < 0.3 else frozenset()
    return Request(prompt, int(random.integers(1, 30)), sampling, ends, drafter=drafter)


def test_a_thousand_requests_that_come_and_go() -> None:
    random = np.random.default_rng(7)
    stepper, guesses = HashStepper(VOCABULARY, CONTEXT, capacity=500, sequences=16), HashStepper(VOCABULARY, seed=0, spread=3.9)
    beginnings = [random.integers(0, VOCABULARY, 40).tolist() for _ in range(5)]
    outputs: list[Output] = []
    with Scheduler(stepper, step_tokens=64, most_running=12, kept_prefixes=4, clock=_Ticks()) as batch:
        while len(outputs) < 1000 or not batch.idle:
            coming = min(random.integers(0, 4), 1000 - len(outputs))
            outputs.extend([batch.submit(_random_request(random, beginnings, guesses)) for _ in range(coming)])
            if outputs and random.random() < 0.1:
                outputs[random.integers(len(outputs))].cancel()
            batch.step()
    assert not stepper.live
    assert not guesses.live
    for output in outputs:
        expected, got = alone(output.request, HashStepper(VOCABULARY, CONTEXT)), output.tokens.tolist()
        assert got == (expected[: len(got)] if output.finish_reason == "cancelled" else expected)
        assert output.finish_reason in {"cancelled", "stop" if got and got[-1] in output.request.ends else "length"}
    assert sum(output.finish_reason == "cancelled" for output in outputs) > 20
    # the test is worth something: the cache was too small, prefixes were shared, drafts were made and rejected
    assert stepper.refusals > 50
    assert stepper.forks > 50
    assert stepper.truncated > 500
    assert len(guesses.rows) > 500
    assert max(stepper.rows) <= 64


def _requests(count: int, prompt: int = 10, max_tokens: int = 12, **options: Any) -> list[Request]:
    random = np.random.default_rng(3)
    return [Request(tuple(random.integers(0, 32, prompt).tolist()), max_tokens, **options) for _ in range(count)]


def _check(outputs: Sequence[Output]) -> None:
    for output in outputs:
        assert output.error is None
        assert output.tokens.tolist() == alone(output.request, HashStepper())


def test_prompts_do_not_hold_up_who_decodes() -> None:
    stepper = HashStepper()
    with Scheduler(stepper, step_tokens=16, most_running=4) as batch:
        first = batch.submit(_requests(1, max_tokens=60)[0])
        batch.step()
        long = batch.submit(Request((1,) * 400, 5))
        for count in range(2, 20):
            batch.step()
            assert len(first.tokens) == count  # a token a step, all the same
        assert not len(long.tokens)
        batch.run()
    _check([first, long])
    assert max(stepper.rows) == 16


def test_the_order_of_arrival() -> None:
    with Scheduler(HashStepper(), step_tokens=8, most_running=2) as batch:
        outputs = [batch.submit(request) for request in _requests(6)]
        batch.run()
    firsts = [output.times["first"] for output in outputs]
    assert firsts == sorted(firsts)
    _check(outputs)


def test_one_failure_harms_nobody_else() -> None:
    """Logits, a callback, a drafter, and a step that fails as a whole."""

    class Touchy(HashStepper):
        def step(self, feeds: Sequence[Feed]) -> np.ndarray:
            if any(30 in np.asarray(feed.tokens) for feed in feeds):
                raise RuntimeError("token 30")
            return super().step(feeds)

    class Broken(PromptLookup):
        def propose(self, history: History, count: int) -> Draft:
            raise ArithmeticError("no guess")

    def refuse(token: int) -> bool:
        raise KeyError("no thanks")

    good = [Request((token, 2, 3), 15, SamplingOptions(logit_bias={30: -np.inf, 31: -np.inf})) for token in range(5)]
    never = SamplingOptions(logit_bias={30: -np.inf, 31: -np.inf})
    bad = [
        (Request((1, 31), 15, never), NumericsError),
        (Request((1, 2), 15, never, on_token=refuse), KeyError),
        (Request((2, 2, 2), 15, never, drafter=Broken()), ArithmeticError),
        (Request((1, 30), 15, never), RuntimeError),
    ]
    stepper = Touchy(poison=31)
    with Scheduler(stepper) as batch:
        failed = [(batch.submit(request), error) for request, error in bad]
        outputs = [batch.submit(request) for request in good]
        batch.run()
    _check(outputs)
    for output, error in failed:
        assert output.finish_reason == "error"
        assert isinstance(output.error, error)
    assert not stepper.live


def test_an_interrupt_at_any_moment_leaves_the_batch_usable() -> None:
    """Before a step, after it, or in a callback: going on afterwards gives the same tokens, and leaving frees everything."""
    for moment in itertools.product(["before", "after", "callback"], range(1, 12)):
        stepper = _Interrupted(*moment)
        batch = Scheduler(stepper, step_tokens=16, most_running=4)
        requests = [Request(one.prompt, 10, on_token=stepper.called, drafter=PromptLookup(1, 1)) for one in _requests(5)]
        outputs = [batch.submit(request) for request in requests]
        with pytest.raises(KeyboardInterrupt):
            batch.run()
        batch.run()
        _check(outputs)
        batch.close()
        assert not stepper.live


def test_an_interrupt_between_the_end_of_an_output_and_its_leaving() -> None:
    class Closing(PromptLookup):
        def close(self) -> None:
            raise KeyboardInterrupt

    stepper = HashStepper()
    batch = Scheduler(stepper)
    outputs = [batch.submit(Request((1, 2), 5, drafter=Closing())), *map(batch.submit, _requests(2))]
    with pytest.raises(KeyboardInterrupt):
        batch.run()
    batch.run()
    _check(outputs)
    batch.close()
    assert not stepper.live


class _Interrupted(HashStepper):
    def __init__(self, moment: str, count: int) -> None:
        super().__init__()
        self.moment, self.count = moment, count

    def step(self, feeds: Sequence[Feed]) -> np.ndarray:
        self._strike("before")
        logits = super().step(feeds)
        self._strike("after")
        return logits

    def called(self, token: int) -> None:
        self._strike("callback")

    def _strike(self, moment: str) -> None:
        if moment == self.moment:
            self.count -= 1
            if self.count == 0:
                raise KeyboardInterrupt


def test_a_full_cache_puts_the_newest_off() -> None:
    stepper = HashStepper(capacity=60)
    with Scheduler(stepper, kept_prefixes=0, most_running=3) as batch:
        outputs = [batch.submit(request) for request in _requests(6, max_tokens=25)]
        batch.run()
    _check(outputs)
    ended = [output.times["ended"] for output in outputs]
    assert ended == sorted(ended)
    assert len(stepper.rows) < 6 * 25  # they ran together while they fitted
    assert 2 < stepper.refusals < 10  # who was put off did not try again before there was room


def test_kept_prefixes_go_before_anybody_is_put_off() -> None:
    stepper = HashStepper(capacity=50)
    with Scheduler(stepper, kept_prefixes=4) as batch:
        for request in _requests(4, max_tokens=25):
            output = batch.submit(request)
            batch.run()
            _check([output])


def test_a_cache_too_small_for_one() -> None:
    stepper = HashStepper(capacity=20)
    with Scheduler(stepper) as batch:
        prompt, output = batch.submit(_requests(1, prompt=21)[0]), batch.submit(_requests(1, max_tokens=30)[0])
        batch.run()
    assert prompt.finish_reason == "error"
    assert isinstance(prompt.error, LimitError)
    assert output.finish_reason == "length"
    assert output.tokens.tolist() == alone(output.request, HashStepper())[:11]  # the last of them need not be in the cache
    assert not stepper.live


def test_drafts_are_left_out_before_a_full_cache_ends_anything() -> None:
    class Eager(PromptLookup):
        def propose(self, history: History, count: int) -> Draft:
            return Draft((0,) * count)

    with Scheduler(HashStepper(capacity=17), clock=_Ticks()) as batch:
        output = batch.submit(Request((1,) * 10, 30, drafter=Eager()))
        batch.run()
    assert output.finish_reason == "length"
    assert output.tokens.tolist() == alone(output.request, HashStepper())[:8]  # the last of them need not be in the cache


def test_sequences_run_out_before_positions() -> None:
    stepper = HashStepper(sequences=3)
    with Scheduler(stepper) as batch:
        outputs = [batch.submit(request) for request in _requests(9)]
        batch.run()
    _check(outputs)


def test_no_sequence_at_all() -> None:
    with Scheduler(HashStepper(sequences=0)) as batch:
        output = batch.submit(_requests(1)[0])
        batch.run()
    assert isinstance(output.error, LimitError)


def test_a_known_beginning_is_not_computed_again() -> None:
    stepper = HashStepper()
    with Scheduler(stepper, kept_prefixes=2) as batch:
        system = tuple(np.random.default_rng(1).integers(0, 32, 50).tolist())
        outputs = []
        for ending in (1, 2, 3):
            before = sum(stepper.rows)
            outputs.append(batch.submit(Request((*system, ending), 5)))
            batch.run()
            assert sum(stepper.rows) - before == (51 if ending == 1 else 1) + 4
        again = batch.submit(Request((*system, 3, *outputs[-1].tokens.tolist(), 9), 5))  # the next turn of a chat
        before = sum(stepper.rows)
        batch.run()
        assert sum(stepper.rows) - before == 2 + 4
    _check([*outputs, again])
    assert not stepper.live


def test_a_beginning_that_somebody_is_using_is_shared_too() -> None:
    stepper = HashStepper()
    with Scheduler(stepper, kept_prefixes=0) as batch:
        first = batch.submit(Request((5,) * 40, 20))
        batch.step()
        second = batch.submit(Request((5,) * 40 + (6,), 20))
        batch.run()
    _check([first, second])
    assert stepper.forks == 1
    assert sum(stepper.rows) == 40 + 19 + 1 + 19


def test_prefixes_are_bounded() -> None:
    stepper = HashStepper()
    batch = Scheduler(stepper, kept_prefixes=3)
    for request in _requests(8):
        batch.submit(request)
    batch.run()
    assert len(stepper.live) == 3
    batch.close()
    assert not stepper.live


@pytest.mark.parametrize("capacity", [None, 130])
def test_log_probabilities_of_prompt_and_output(capacity: int | None) -> None:
    stepper = HashStepper(capacity=capacity)
    with Scheduler(stepper, step_tokens=16, most_running=4) as batch:
        requests = _requests(4, prompt=40, max_tokens=8, logprobs=2, prompt_logprobs=1)
        outputs = [batch.submit(request) for request in requests]
        batch.run()
        outputs.append(batch.submit(requests[-1]))  # though its beginning is known
        batch.run()
    _check(outputs)
    for output in outputs:
        tokens, model = output.history.tokens.tolist(), HashStepper()
        rows = log_softmax(model.step([Feed(model.sequence(), tuple(tokens[:-1]), "all")]))
        named = [token_logprob(row, token, 1) for row, token in zip(rows, tokens[1:], strict=True)]
        assert output.prompt_logprobs == [None, *named[:39]]
        assert [(one.token, one.logprob) for one in output.logprobs] == [(one.token, one.logprob) for one in named[39:]]
        assert all(len(one.top) == 2 for one in output.logprobs)
    assert (stepper.refusals > 0) == (capacity is not None)


def test_log_probabilities_under_drafts() -> None:
    class Right(PromptLookup):
        def propose(self, history: History, count: int) -> Draft:
            return Draft(tuple(expected[len(history) - 10 :][:count]))

    request = _requests(1, max_tokens=40, logprobs=0)[0]
    expected = alone(request, HashStepper())
    stepper = HashStepper()
    with Scheduler(stepper, clock=_Ticks()) as batch:
        output = batch.submit(Request(request.prompt, 40, logprobs=0, drafter=Right()))
        batch.run()
    _check([output])
    assert [one.token for one in output.logprobs] == expected
    assert len(stepper.rows) < 20


def test_a_step_with_a_prompt_in_it_says_nothing_about_drafts() -> None:
    with Scheduler(HashStepper(), step_tokens=8, most_running=2, clock=_Ticks()) as batch:
        output = batch.submit(Request((1, 2), 60, drafter=PromptLookup(1, 1)))
        batch.submit(Request((1,) * 400, 1))
        (member,) = [member for _ in range(9) if batch.step() for member in batch._running[:1]][-1:]
        assert member.output is output
        assert member.payoff.count == 0  # still to be measured
        batch.run()
    _check([output])


def test_a_deadline() -> None:
    stepper, clock = HashStepper(), _Ticks()
    with Scheduler(stepper, most_running=1, clock=clock) as batch:
        slow, waiting = (batch.submit(Request((1, 2), 10_000, max_time_ms=200)) for _ in range(2))
        batch.run()
    assert slow.finish_reason == waiting.finish_reason == "deadline"
    assert 5 < len(slow.tokens) < 200
    assert not len(waiting.tokens)
    assert clock.now < 1
    assert waiting.prefill_ms == waiting.decode_ms == 0


def test_cancelling() -> None:
    with Scheduler(HashStepper(), most_running=1) as batch:
        running, waiting, other = (batch.submit(request) for request in _requests(3, max_tokens=50))
        for _ in range(5):
            batch.step()
        running.cancel()
        waiting.cancel()
        batch.run()
        other.cancel()  # too late
    assert (running.finish_reason, len(running.tokens)) == ("cancelled", 5)
    assert (waiting.finish_reason, len(waiting.tokens)) == ("cancelled", 0)
    _check([other])
    assert other.finish_reason == "length"


def test_closing_cancels_what_is_left() -> None:
    stepper = HashStepper()
    with Scheduler(stepper, most_running=1) as batch:
        outputs = [batch.submit(request) for request in _requests(3)]
        batch.step()
    assert {output.finish_reason for output in outputs} == {"cancelled"}
    assert not stepper.live


def test_following_one_output() -> None:
    stepper = HashStepper()
    with Scheduler(stepper) as batch:
        first, second = (batch.submit(request) for request in _requests(2))
        assert list(batch.follow(first)) == alone(first.request, HashStepper())
        left = batch.submit(_requests(1, max_tokens=1000)[0])
        for count, _ in enumerate(batch.follow(left), 1):
            if count == 3:
                break
        batch.run()
        assert (left.finish_reason, len(left.tokens)) == ("cancelled", 3)
        assert batch.idle
    _check([first, second])


def test_following_one_that_fails() -> None:
    with Scheduler(HashStepper(poison=3)) as batch:
        output, tokens = batch.submit(Request((1, 2), 10_000)), []
        with pytest.raises(NumericsError):
            tokens.extend(batch.follow(output))
        assert tokens == output.tokens.tolist()
        assert tokens[-1] == 3


def test_a_callback_ends_the_output() -> None:
    seen: list[int] = []

    def third(token: int) -> bool:
        seen.append(token)
        return len(seen) == 3

    with Scheduler(HashStepper()) as batch:
        output = batch.submit(Request((1, 2), 50, on_token=third))
        batch.run()
    assert output.finish_reason == "stop"
    assert output.tokens.tolist() == seen == alone(output.request, HashStepper())[:3]


def test_an_ending_token_belongs_to_the_output_but_is_not_told() -> None:
    expected, seen = alone(Request((1, 2), 50), HashStepper()), []
    with Scheduler(HashStepper()) as batch:
        output = batch.submit(Request((1, 2), 50, ends=frozenset([expected[4]]), on_token=seen.append))
        batch.run()
    assert output.tokens.tolist() == expected[:5]
    assert seen == expected[:4]


def test_the_context_ends_the_output() -> None:
    with Scheduler(HashStepper(context=12)) as batch:
        output = batch.submit(Request((1,) * 10, 50))
        batch.run()
    assert output.finish_reason == "length"
    assert len(output.tokens) == 2


def test_requests_from_other_threads() -> None:
    stepper, outputs = HashStepper(), []
    requests = _requests(200, max_tokens=5)
    with Scheduler(stepper) as batch:

        def submit(part: list[Request]) -> None:
            outputs.extend([batch.submit(request) for request in part])

        threads = [threading.Thread(target=submit, args=(requests[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or not batch.idle:
            batch.step()
    assert len(outputs) == 200
    _check(outputs)


def test_bad_requests_do_not_join() -> None:
    stepper = HashStepper(context=20)
    batch = Scheduler(stepper)
    for prompt, error in (((), ModelError), ((32,), ModelError), ((1,) * 20, LimitError)):
        with pytest.raises(error):
            batch.submit(Request(prompt, 5))
    assert batch.idle
    assert not batch.step()
    assert not stepper.rows


@pytest.mark.parametrize("options", [{"step_tokens": 0}, {"most_running": 0}, {"kept_prefixes": -1}, {"step_tokens": 8, "most_running": 9}])
def test_bad_bounds(options: dict[str, int]) -> None:
    with pytest.raises(SchemeError, match="expected"):
        Scheduler(HashStepper(), **options)
