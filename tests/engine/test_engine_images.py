"""The native step of image models, against the oracle and transformers; and encoders, whose texts and images are kept whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import DTypeError, LimitError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed, Patches
from kbit.engine.patches import unfold
from kbit.model import quantize_folder

from .conftest import Checkpoint, Engines
from .models import IMAGES, answer, answer_image, build, difference, picture, text

TOLERANCE = 1e-5
PACKED = Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int8:g16"))


def load(folder: Path, **options: Any) -> Engine:
    return Engine.load(folder, **{"mode": "exact", "cache": "fp32", "cache_positions": 4096, **options})


def whole(engine: Any, *seeds: int) -> np.ndarray:
    """Outputs of all patches of some pictures, in one step."""
    sequences = [engine.sequence() for _ in seeds]
    try:
        return engine.step([Patches(sequence, unfold(picture(seed), 4)) for sequence, seed in zip(sequences, seeds, strict=True)])
    finally:
        for sequence in sequences:
            engine.free(sequence)


@pytest.mark.parametrize("name", IMAGES)
def test_agrees_with_transformers(name: str, checkpoint: Checkpoint) -> None:
    expected = answer_image(build(name), picture(1))
    assert difference(whole(load(checkpoint(name)), 1)[: len(expected)], expected) < TOLERANCE


@pytest.mark.parametrize("name", IMAGES)
def test_agrees_with_the_oracle_packed(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "packed", PACKED, progress=False)
    expected = whole(engines(tmp_path / "packed"), 2, 3)
    assert difference(whole(load(tmp_path / "packed"), 2, 3), expected) < TOLERANCE
    fast = whole(load(tmp_path / "packed", mode="fast", cache="fp16"), 2, 3)
    assert np.abs(fast - expected).mean() < 0.01 * np.ptp(expected)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_neither_company_nor_threads_nor_instruction_sets_change_a_byte(mode: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    quantize_folder(checkpoint("vit"), tmp_path / "packed", PACKED, progress=False)
    engine, before = load(tmp_path / "packed", mode=mode, cache="fp16", threads=7, max_rows=10), native.isa()
    alone = np.concatenate([whole(engine, seed) for seed in range(3)])
    try:
        for isa in native.available_isas():
            native.set_isa(isa)
            for threads in (1, 2, 7):
                engine.threads = threads
                assert np.array_equal(whole(engine, 0, 1, 2), alone)
    finally:
        native.set_isa(before)


def test_an_image_comes_whole_and_as_numbers(checkpoint: Checkpoint) -> None:
    engine = load(checkpoint("vit"))
    sequence = engine.sequence()
    with pytest.raises(DTypeError, match="expected Patches"):
        engine.step([Feed(sequence, [1])])
    engine.step([Patches(sequence, unfold(picture(0), 4))])
    with pytest.raises(LimitError, match="expected the whole text of an encoder in one step"):
        engine.step([Patches(sequence, unfold(picture(0), 4))])


def test_encoders_texts_are_not_cut(checkpoint: Checkpoint) -> None:
    """More rows than a call takes: the second text would begin in one call and end in the next."""
    engine, texts = load(checkpoint("bert"), max_rows=16), [text(40, 1), text(50, 2), text(3, 3)]
    assert engine.max_rows == 64
    found = engine.step([Feed(engine.sequence(), tokens, "all") for tokens in texts])
    expected = np.concatenate([answer(build("bert"), tokens) for tokens in texts])
    assert difference(found, expected) < TOLERANCE
