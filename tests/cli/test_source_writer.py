"""`kbit run` and `kbit bench` of models that encode one text and decode another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from kbit.evaluate.models import load_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPT = "The old house stood"


def tokenizer() -> Tokenizer:
    """One token a byte, and </s> after each text."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(letters | {"<pad>": 256, "</s>": 257}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 257)])
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART whose texts begin with two tokens, and that must not write a third."""
    path = tmp_path_factory.mktemp("bart")
    torch.manual_seed(5)
    config = transformers.BartConfig(
        vocab_size=258, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=2,
        decoder_attention_heads=2, max_position_embeddings=64, init_std=0.3, pad_token_id=256, eos_token_id=257, bos_token_id=257,
        decoder_start_token_id=257, forced_bos_token_id=65, forced_eos_token_id=None,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    model.save_pretrained(path)
    tokenizer().save(str(path / "tokenizer.json"))
    settings = json.loads((path / "generation_config.json").read_text())
    likely = theirs(path, PROMPT, 6)[1]
    (path / "generation_config.json").write_text(json.dumps(settings | {"bad_words_ids": [[likely], [1, 2]], "forced_bos_token_id": 65}))
    return path


def theirs(path: Path, prompt: str, count: int, **options: Any) -> list[int]:
    """What transformers writes behind the token that a decoder begins with."""
    model = transformers.BartForConditionalGeneration.from_pretrained(path).eval()
    ids = torch.tensor([load_tokenizer(path).encode(prompt).ids])
    with torch.inference_mode():
        row = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, **options)[0]
    return [int(token) for token in row[1:]]


def test_another_text_is_written_for_a_prompt(kbit: Callable, folder: Path) -> None:
    called = kbit("run", folder, PROMPT, "--max-tokens", 12, "--mode", "exact", "--cache", "fp32", "--json")
    assert called.code == 0, called.err
    expected = theirs(folder, PROMPT, 13)
    assert expected[0] == 65
    assert called.json["token_ids"] == expected[1:]
    assert called.json["runner"] == "engine"
    assert called.json["prefill_ms"] > 0
    shown = kbit("run", folder, PROMPT, "--max-tokens", 12, "--mode", "exact", "--cache", "fp32")
    assert shown.out == called.json["text"] + "\n"


def test_beams(kbit: Callable, folder: Path) -> None:
    called = kbit("run", folder, PROMPT, "--max-tokens", 9, "--beams", 3, "--mode", "exact", "--cache", "fp32", "--json")
    assert called.code == 0, called.err
    assert called.json["token_ids"] == theirs(folder, PROMPT, 10, num_beams=3)[1:]


def test_a_packed_model_runs_too(kbit: Callable, folder: Path, tmp_path: Path) -> None:
    assert kbit("quantize", folder, "--scheme", "int8:g16", "-o", tmp_path / "packed").code == 0
    called = kbit("run", tmp_path / "packed", PROMPT, "--max-tokens", 5, "--json")
    assert called.code == 0, called.err
    assert len(called.json["token_ids"]) == 5


def test_bench_encodes_and_decodes(kbit: Callable, folder: Path) -> None:
    called = kbit("bench", folder, "--prompt", 100, "--decode", 4, "--repeats", 1, "--json")
    assert called.code == 0, called.err
    assert (called.json["runner"], called.json["prompt_tokens"], called.json["decode_tokens"]) == ("engine", 60, 4)


def test_a_model_that_does_not_say_where_to_begin_is_one_line(kbit: Callable, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"decoder_start_token_id": None}))
    (tmp_path / "generation_config.json").unlink()
    called = kbit("run", tmp_path, PROMPT)
    assert called.code == 1
    assert "'decoder_start_token_id': expected the token that a text begins with, got None" in called.err
