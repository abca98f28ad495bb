"""Rounds: in each, every contestant runs one prompt and decodes; the machine's roofs are probed beside each of them.

Contestants keep their worker over the rounds as long as all of them fit into memory; those that do not are loaded again at each turn.
"""

import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kbit import native
from peers.catalogue import Engine
from peers.client import Worker
from peers.files import FailureError
from peers.others import Others

__all__ = ["Contestant", "Load", "Plan", "Sample", "run_rounds"]

#: of no round: a seed counts by its absolute value
WARM_SEED = 1 << 32
WARM_TOKENS = 4
CALM_SHARE = 0.05
FIRST_WORD = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        rounds: how many.
        prompt, decode: tokens of a prompt, and decoded after it.
        vocabulary: of the model.
        memory_bytes: most that workers keep between their turns.
        patience_seconds: time that a turn may wait for others to leave the processors alone.
    """

    rounds: int
    prompt: int
    decode: int
    vocabulary: int
    memory_bytes: int
    patience_seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn, the roofs beside it, and the part of the processors' time that other processes took."""

    prefill_seconds: float
    decode_seconds: float
    first_token: int
    peak_rss_bytes: int
    memory_roof: float
    int8_roof: float
    others_share: float


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a model."""

    seconds: float
    rss_bytes: int


@dataclass
class Contestant:
    """An engine with one type of weights, and what came of it."""

    engine: Engine
    kind: str
    path: Path | None = None
    failure: str | None = None
    about: str | None = None
    loads: list[Load] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    worker: Worker | None = None

    def open(self, threads: int, plan: Plan) -> Worker:
        """Its worker, loaded and warm."""
        if self.worker is None:
            assert self.path is not None
            self.worker = Worker(self.engine, self.path, threads, self.path.with_name(f"{self.path.name}.{threads}.log"))
            self.about = self.worker.loaded["about"]
            self.loads.append(Load(self.worker.loaded["seconds"], self.worker.loaded["rss_bytes"]))
            self.worker.generate(words(plan, seed=WARM_SEED), WARM_TOKENS)
        return self.worker

    def close(self) -> None:
        """Ends its worker."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def run_rounds(contestants: list[Contestant], threads: int, plan: Plan) -> None:
    """Fills in the samples of the contestants; one that fails is out, with its reason."""
    try:
        for index in range(plan.rounds):
            for contestant in _in_turn(contestants, index):
                _turn(contestant, index, threads, plan)
                if _resident_bytes(contestants) > plan.memory_bytes:
                    contestant.close()
            print(f"  {threads} thread{'s' * (threads > 1)}: round {index + 1} of {plan.rounds}", flush=True)
    finally:
        for contestant in contestants:
            contestant.close()


def words(plan: Plan, seed: int) -> list[int]:
    """A prompt of random words."""
    source = random.Random(seed)
    return [source.randrange(FIRST_WORD, plan.vocabulary) for _ in range(plan.prompt)]


def _in_turn(contestants: list[Contestant], index: int) -> Iterator[Contestant]:
    """Those still in it; every round starts with another, so that nobody always follows the same one."""
    start = index * 7 % max(len(contestants), 1)
    yield from (each for each in contestants[start:] + contestants[:start] if each.failure is None)


def _turn(contestant: Contestant, index: int, threads: int, plan: Plan) -> None:
    """One sample more: the first that others left alone, or the one that they disturbed least before patience ends."""
    tries: list[Sample] = []
    end = time.monotonic() + plan.patience_seconds
    try:
        worker = contestant.open(threads, plan)
        while not tries or (tries[-1].others_share > CALM_SHARE and time.monotonic() < end):
            Others.wait(end, CALM_SHARE)
            seed = index + plan.rounds * len(tries)  # a new prompt each time: some engines remember
            tries.append(_measure(worker, words(plan, seed), threads, plan))
    except FailureError as failure:
        contestant.failure, contestant.worker = str(failure), None
        return
    best = min(tries, key=lambda sample: sample.others_share)
    contestant.samples.append(best)
    speeds = f"prefill {plan.prompt / best.prefill_seconds:.1f}, decode {plan.decode / best.decode_seconds:.1f} tokens/s"
    print(
        f"  {threads} thr  {contestant.engine.label} {contestant.kind}: {speeds}, others {100 * best.others_share:.0f} %", file=sys.stderr
    )


def _measure(worker: Worker, prompt: list[int], threads: int, plan: Plan) -> Sample:
    before = _roofs(threads)
    others = Others(worker.pid, os.getpid())
    answer = worker.generate(prompt, plan.decode)
    share = others.share()
    roofs = {name: (rate + after) / 2 for (name, rate), after in zip(before.items(), _roofs(threads).values(), strict=True)}
    return Sample(first_token=answer.pop("tokens")[0], others_share=share, **answer, **roofs)


def _roofs(threads: int) -> dict[str, Any]:
    return {"memory_roof": native.memory_roof(threads), "int8_roof": native.int8_roof(threads)}


def _resident_bytes(contestants: list[Contestant]) -> int:
    return sum(contestant.worker.rss_bytes() for contestant in contestants if contestant.worker is not None)
