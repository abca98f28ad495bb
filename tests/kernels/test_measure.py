"""Choosing by the clock, with clocks of our own."""

from collections import Counter

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels.measure import COUNTS, MARGIN, Streamed, measure_choices
from kbit.kernels.variants import FEW_TOKENS, Kind, Variant

KIND = Kind(2, True, 64, 64, 128)


class Clock:
    """A timer of stated times; calls are counted. What is not stated takes a second."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.calls: Counter[tuple[Variant, int, int]] = Counter()
        self.order: list[Variant] = []

    def __call__(self, variant: Variant, tokens: int, threads: int) -> float:
        self.calls[variant, tokens, threads] += 1
        self.order.append(variant)
        return self.seconds.get(variant, 1.0) * tokens


def chosen(timer: Clock, kind: Kind = KIND, isa: str = "avx512", rounds: int = 3) -> dict[str, tuple[Variant, float]]:
    found = measure_choices(kind, timer, isa=isa, threads=(1, 2), rounds=rounds)
    assert {choice.kind for choice in found} == {kind}
    return {choice.tokens: (choice.variant, choice.gain) for choice in found}


def test_the_fastest_wins() -> None:
    assert chosen(Clock(serial=0.5)) == {"one": ("serial", 2.0), "few": ("serial", 2.0)}


def test_the_default_stays_where_little_is_gained() -> None:
    assert chosen(Clock(lookup=1 - MARGIN / 2)) == {"one": ("automatic", 1.0), "few": ("integer", 1.0)}
    assert chosen(Clock()) == {"one": ("automatic", 1.0), "few": ("integer", 1.0)}


def test_what_is_not_possible_is_not_measured() -> None:
    clock = Clock(serial=0.1, integer=0.1)
    assert chosen(clock, Kind(3, False, 64, 64, 128)) == {"one": ("automatic", 1.0), "few": ("lookup", 1.0)}
    assert {variant for variant, _, _ in clock.calls} == {"automatic", "lookup"}


def test_variants_take_turns_for_every_number_of_tokens_and_threads() -> None:
    clock = Clock()
    chosen(clock, rounds=5)
    assert set(clock.calls.values()) == {5}
    assert {(tokens, threads) for _, tokens, threads in clock.calls} == {
        (count, n) for counts in COUNTS.values() for count in counts for n in (1, 2)
    }
    assert clock.order[:8] == ["automatic", "lookup", "integer", "serial", "serial", "integer", "lookup", "automatic"]


def test_a_round_that_the_machine_spoiled_does_not_decide() -> None:
    class Spoiled(Clock):
        def __call__(self, variant: Variant, tokens: int, threads: int) -> float:
            slow = 100.0 if len(self.order) % 20 < 4 else 1.0  # one round of five
            return super().__call__(variant, tokens, threads) * slow

    assert chosen(Spoiled(lookup=0.9), rounds=5)["one"] == ("lookup", round(1 / 0.9, 3))


def test_gains_over_threads_and_tokens_are_averaged() -> None:
    class Split(Clock):
        def __call__(self, variant: Variant, tokens: int, threads: int) -> float:
            seconds = super().__call__(variant, tokens, threads)
            return seconds * (0.5 if threads == 2 else 1.2) if variant == "lookup" else seconds

    assert chosen(Split())["one"] == ("lookup", round((1 / 0.6) ** 0.5, 3))


@pytest.mark.parametrize("text", ["int1:g64", "nf3:g16:e4m3"])
def test_copies_run(text: str) -> None:
    quantized = encode(np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32), Scheme.parse(text), name="test")
    streamed = Streamed(quantized, stream_bytes=5 * quantized.weight.nbytes)
    assert len(streamed.matrices) == 5
    assert streamed.kind == Kind(quantized.scheme.bits, text.startswith("int"), 128 if text.startswith("int") else 16, 32, 64)
    x = np.ones((1, 64), np.float32)
    assert len({matrix.matmul(x).tobytes() for matrix in streamed.matrices}) == 1
    for tokens in (1, FEW_TOKENS):
        assert streamed.seconds("lookup", tokens, 1) > 0
    assert streamed.matrices[-1].variant("few") == "lookup"
