"""`kbit run`: the text of transformers' own generation, streamed, with any choice of the next token."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.reference import KEYS
from kbit.evaluate.models import load_causal_model, load_tokenizer

PROMPT = "The old house stood"


def _expected(folder: Path, count: int, **options: object) -> list[int]:
    torch = pytest.importorskip("torch")
    model, ids = load_causal_model(folder), torch.tensor([load_tokenizer(folder).encode(PROMPT).ids])
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, pad_token_id=0, **options)
    return output[0, ids.shape[1] :].tolist()


def test_json_has_the_continuation(kbit: Callable, packed_model: Path) -> None:
    called = kbit("run", packed_model, PROMPT, "--max-tokens", 6, "--json")
    assert called.code == 0, called.err
    facts = called.json
    assert set(facts) == set(KEYS["run"].split())
    assert facts["token_ids"] == _expected(packed_model, 6)
    assert facts["text"] == load_tokenizer(packed_model).decode(facts["token_ids"])
    assert facts["finish_reason"] == ("stop" if facts["token_ids"][-1] == 0 else "length")
    assert min(facts["prefill_ms"], facts["decode_ms"]) > 0


@pytest.mark.parametrize("beams", [1, 3])
def test_stdout_is_prompt_and_text(beams: int, kbit: Callable, packed_model: Path) -> None:
    arguments = ("run", packed_model, PROMPT, "--max-tokens", 5, "--beams", beams)
    text = kbit(*arguments, "--json").json["text"]
    called = kbit(*arguments)
    assert called.out == f"{PROMPT}{text}\n"
    assert "tokens/s" in called.err
    assert text == load_tokenizer(packed_model).decode(_expected(packed_model, 5, num_beams=beams))


def test_a_seed_repeats_a_draw_and_another_does_not(kbit: Callable, tiny_model: Path) -> None:
    def draw(seed: int) -> list[int]:
        arguments = ("--temperature", 1.5, "--top-p", 0.95, "--top-k", 500, "--max-tokens", 8, "--seed", seed, "--json")
        return kbit("run", tiny_model, PROMPT, *arguments).json["token_ids"]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_no_repeat(kbit: Callable, tiny_model: Path) -> None:
    tokens = kbit("run", tiny_model, PROMPT, "--max-tokens", 40, "--no-repeat", 1, "--json").json["token_ids"]
    assert len(set(tokens)) == len(tokens)


def test_prompt_from_stdin(kbit: Callable, tiny_model: Path) -> None:
    direct = kbit("run", tiny_model, PROMPT, "--max-tokens", 4, "--json").json["token_ids"]
    assert kbit("run", tiny_model, "-", "--max-tokens", 4, "--json", stdin=PROMPT).json["token_ids"] == direct


def test_a_prompt_that_is_not_utf8_is_one_line(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("run", tiny_model, "caf\udce9")  # how Python shows a stray byte of the command line
    assert called.code == 1
    assert called.err == "kbit: expected a prompt in UTF-8, got byte 0xe9 at offset 3\n"


def test_an_empty_prompt_begins_a_text(kbit: Callable, tiny_model: Path) -> None:
    assert len(kbit("run", tiny_model, "", "--max-tokens", 3, "--json").json["token_ids"]) <= 3


def test_the_context_ends_the_text(kbit: Callable, tiny_model: Path) -> None:
    tokens = load_tokenizer(tiny_model).encode(PROMPT).ids
    long = PROMPT * ((256 - 3) // len(tokens))
    room = 256 - len(load_tokenizer(tiny_model).encode(long).ids)
    found = kbit("run", tiny_model, long, "--max-tokens", 100, "--json").json
    assert len(found["token_ids"]) <= room
    refused = kbit("run", tiny_model, long * 2)
    assert refused.code == 1
    assert "context of 256 tokens" in refused.err


def test_choices_without_a_draw_are_bad_usage(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("run", tiny_model, PROMPT, "--top-p", 0.5)
    assert called.code == 2
    assert "--temperature" in called.err


def test_a_missing_model_is_one_line(kbit: Callable, tmp_path: Path) -> None:
    called = kbit("run", tmp_path / "nowhere", PROMPT)
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith("kbit: ")
