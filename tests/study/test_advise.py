"""Advice keeps its limits, gives three options in their order, and says what would fit where nothing does."""

import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from kbit.core.errors import ModelError, NumericsError, SchemeError
from kbit.study.advise import Advice, Roofs, advise
from kbit.study.advise.candidates import Candidate
from kbit.study.advise.choose import SMALL_COST, Limits, choose, pareto
from kbit.study.advise.footprint import PROCESS_BYTES, Footprint
from kbit.study.advise.measured import anchored
from kbit.study.book import LawBook
from kbit.study.predict import Prediction

ROOFS = Roofs(20.0, 400.0)


def _candidate(model: str, bits: int, size: int, loss: float, width: float = 0.1, speed: float = 10.0) -> Candidate:
    footprint = Footprint(size - PROCESS_BYTES, 0, 0, size, bits, 100)
    params = {"small": 10**9, "large": 3 * 10**9}[model]
    return Candidate(model, "f", f"int{bits}:g64", bits, params, footprint, loss, loss - width, loss + width, speed)


GB = 10**9
CANDIDATES = [
    _candidate("small", 4, GB, 2.30), _candidate("small", 8, 2 * GB, 2.25, speed=6.0), _candidate("large", 2, GB + 1, 2.60, speed=9.0),
    _candidate("large", 3, 2 * GB + 1, 2.20, width=0.3, speed=5.0), _candidate("large", 4, 3 * GB, 2.10, speed=3.0),
]  # fmt: skip


def _named(advice: Advice) -> dict[str, str]:
    return {option.label: f"{option.candidate.model} {option.candidate.bits}" for option in advice.options}


def test_three_options() -> None:
    advice = choose(CANDIDATES, Limits(int(2.5 * GB)))
    assert _named(advice) == {"safest": "small 8", "best": "large 3", "smallest": "small 8"}
    assert all(option.reason.endswith(".") for option in advice.options)
    best = advice.options[1]
    assert "4 bits of it do not" in best.reason
    assert advice.options[2].candidate.loss <= best.candidate.loss + SMALL_COST


def test_limits_are_kept() -> None:
    assert _named(choose(CANDIDATES, Limits(4 * GB)))["best"] == "large 4"
    assert _named(choose(CANDIDATES, Limits(4 * GB, min_tokens_per_s=6.0)))["best"] == "small 8"
    assert _named(choose(CANDIDATES, Limits(4 * GB, max_loss=2.15)))["smallest"] == "large 4"


def test_frontier_has_what_nothing_beats() -> None:
    kept = pareto(CANDIDATES)
    assert [(one.model, one.bits) for one in kept] == [("small", 4), ("small", 8), ("large", 3), ("large", 4)]
    twice = [CANDIDATES[0], replace(CANDIDATES[0], scheme="other")]
    assert len(pareto(twice)) == 2


def test_a_dominated_k_is_named() -> None:
    (warning,) = choose(CANDIDATES, Limits(4 * GB)).warnings
    assert warning.startswith("large at 2 bits loses to small at 4 bits")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(GB // 2), {"memory": GB}),
        (Limits(int(2.5 * GB), min_tokens_per_s=20.0), {"min_speed": 10.0}),
        (Limits(int(2.5 * GB), max_loss=2.15), {"memory": 3 * GB, "max_loss": 2.20}),
        (Limits(GB // 2, min_tokens_per_s=20.0, max_loss=1.0), {"memory": GB}),
    ],
)
def test_nothing_fits(limits: Limits, expected: dict[str, float]) -> None:
    advice = choose(CANDIDATES, limits)
    assert advice.options == ()
    assert {one.limit: one.nearest for one in advice.nearest} == pytest.approx(expected)


def test_known_family_with_the_packages_law() -> None:
    advice = advise(16 * GB, family="llama1", context=2048, roofs=ROOFS)
    best = {option.label: option.candidate for option in advice.options}["best"]
    assert best.bytes <= 16 * GB
    assert best.loss_low < best.loss < best.loss_high
    assert best.tokens_per_s > 0
    values = advice.to_json()
    assert [option["label"] for option in values["options"]] == ["safest", "best", "smallest"]
    assert {"model", "scheme", "loss", "loss_low", "loss_high", "bytes", "tokens_per_s", "reason"} <= set(values["options"][0])
    more = advise(64 * GB, family="llama1", context=2048, roofs=ROOFS)
    assert more.options[1].candidate.loss < best.loss


def test_memory_counts_the_cache_and_speed_reads_it() -> None:
    short, long = (
        advise(16 * GB, models=["Llama-3.1-8B"], schemes=["nf4:g64"], context=context, roofs=ROOFS).options[0].candidate
        for context in (1024, 65536)
    )
    assert long.bytes - short.bytes == long.footprint.kv_bytes - short.footprint.kv_bytes > 7 * GB
    assert long.tokens_per_s < short.tokens_per_s
    small = advise(16 * GB, models=["Llama-3.1-8B"], schemes=["nf4:g64"], context=65536, cache="int4", roofs=ROOFS).options[0].candidate
    assert small.footprint.kv_bytes < long.footprint.kv_bytes / 3


def test_law_of_ones_own(book: LawBook) -> None:
    advice = advise(16 * GB, family="bloom", law=book, roofs=ROOFS, schemes=["16", "nf4:g64+gptq"], context=2048)
    assert advice.options
    assert {option.candidate.scheme for option in advice.options} <= {"16", "nf4:g64+gptq"}


def test_bad_limits() -> None:
    for changes in ({"memory_bytes": 0}, {"memory_bytes": GB, "max_loss": float("nan")}, {"memory_bytes": GB, "min_tokens_per_s": -1.0}):
        with pytest.raises(NumericsError, match="expected a number above 0"):
            advise(family="opt", roofs=ROOFS, **changes)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="at most 2048 positions"):
        advise(GB, family="opt", context=4096, roofs=ROOFS)
    with pytest.raises(SchemeError):
        advise(GB, family="opt", schemes=["nonsense"], context=1024, roofs=ROOFS)


def test_a_measured_original_takes_the_place_of_the_curve() -> None:
    folder = Path(str(files("kbit").joinpath("data", "quill-4.2m")))
    text = folder.parent / "books"
    asked = {"models": [str(folder)], "family": "opt", "context": 256, "roofs": ROOFS, "schemes": ["16", "nf4:g64+gptq"]}
    guessed = advise(GB, **asked).options[1].candidate  # type: ignore[arg-type]
    pytest.importorskip("torch")
    found = {one.candidate.scheme: one.candidate for one in advise(GB, **asked, measure=text, seconds=1.0).options}  # type: ignore[arg-type]
    best = found["16"]
    assert 3.0 < best.loss < 4.8  # its held-out loss is about 3.9
    assert best.loss_high - best.loss < guessed.loss_high - guessed.loss
    with pytest.raises(ModelError, match="a folder with weights"):
        advise(GB, family="opt", context=256, roofs=ROOFS, measure=text)


def test_anchored_keeps_the_damage() -> None:
    original, said = Prediction(10.0, 5.0, 20.0, "power"), Prediction(12.0, 5.5, 26.0, "power", "wide")
    moved = anchored(said, original, math.log(8.0))
    assert moved.perplexity == pytest.approx(8.0 * 1.2)
    assert moved.low < moved.perplexity < moved.high < 26.0
    assert anchored(original, original, 2.0).high == pytest.approx(math.exp(2.0))
