"""Generation over the native engine on a real model: in a batch as alone, with drafts as without, and after Ctrl-C as before."""

import random
from pathlib import Path

import pytest

from kbit.engine.engine import Engine
from kbit.engine.generate import generate, generate_batch
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.sampling_options import SamplingOptions
from kbit.evaluate.models import load_tokenizer
from kbit.model import quantize_folder

PLAIN = GenerateOptions(max_tokens=24)
DRAWN = GenerateOptions(max_tokens=24, sampling=SamplingOptions(temperature=1.0, top_p=0.9, seed=5))


@pytest.fixture(scope="module")
def packed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories") / "packed"
    quantize_folder(shared_data / "models" / "stories260k", folder, "nf4:g64", progress=False)
    return folder


@pytest.mark.parametrize("options", [PLAIN, DRAWN], ids=["greedy", "drawn"])
def test_a_batch_on_a_small_cache_writes_what_each_would_alone(packed: Path, options: GenerateOptions) -> None:
    tokenizer, rng = load_tokenizer(packed), random.Random(3)
    prompts = [[rng.randrange(3, 512) for _ in range(rng.randrange(1, 60))] for _ in range(40)]
    roomy, narrow = Engine.load(packed, cache_positions=4096), Engine.load(packed, cache_positions=512, max_rows=64)
    alone = [generate(roomy, tokenizer, prompt, options).token_ids for prompt in prompts]
    together = generate_batch(narrow, tokenizer, prompts, options)
    assert [found.token_ids for found in together] == alone
    assert {found.finish_reason for found in together} <= {"length", "stop"}
    assert narrow._lengths == roomy._lengths == {}


def test_drafts_change_no_token(packed: Path) -> None:
    tokenizer, engine = load_tokenizer(packed), Engine.load(packed, cache_positions=4096)
    prompt = "Once upon a time, there was a little girl. Once upon a time, there was a"
    expected = generate(engine, tokenizer, prompt, GenerateOptions(max_tokens=60)).token_ids
    drafts = Engine.load(packed, cache_positions=4096)
    for source in ("lookup", drafts):
        assert generate(engine, tokenizer, prompt, GenerateOptions(max_tokens=60, speculate=source)).token_ids == expected
    assert engine._lengths == drafts._lengths == {}


def test_an_interrupt_leaves_the_engine_usable(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, engine = load_tokenizer(packed), Engine.load(packed, cache_positions=4096)
    expected = generate(engine, tokenizer, "Once upon a time", PLAIN).token_ids
    step, calls = engine.step, []

    def interrupted(feeds: object) -> object:
        calls.append(feeds)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(feeds)

    monkeypatch.setattr(engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(engine, tokenizer, "Once upon a time", PLAIN)
    monkeypatch.undo()
    assert engine._lengths == {}
    assert generate(engine, tokenizer, "Once upon a time", PLAIN).token_ids == expected
