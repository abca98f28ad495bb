"""Files → windows: which tokens, in which order, and what cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kbit.calibrate import CalibrationText, CalibrationWindows
from kbit.calibrate.text import read_documents
from kbit.core.errors import FormatError, KbitError, SchemeError, ShapeError, StorageError

WORDS = 500


def tokenizer(bos: bool = False) -> Tokenizer:
    """A word a token: word N is id N; id WORDS begins a text."""
    made = Tokenizer(models.WordLevel({**{f"w{i}": i for i in range(WORDS)}, "<s>": WORDS, "a": WORDS + 1}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", WORDS)])
    return made


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(" ".join(f"w{i}" for i in range(WORDS)))
    return path


def test_windows_are_stretches_of_the_text_each_taken_once(book: Path) -> None:
    windows = CalibrationText((book,), tokens=10_000, context=16).windows(tokenizer())
    assert windows.ids.shape[1] == 16
    assert windows.tokens == windows.ids.size > 0.7 * WORDS
    assert all(np.array_equal(row, np.arange(row[0], row[0] + 16)) for row in windows.ids if WORDS + 1 not in row)
    flat = windows.ids[windows.ids < WORDS]
    assert len(set(flat.tolist())) == flat.size


def test_the_seed_decides_and_few_windows_come_from_all_over(book: Path) -> None:
    draw = lambda **given: CalibrationText((book,), **{"tokens": 64, "context": 16} | given).windows(tokenizer())  # noqa: E731
    assert draw().ids.shape == (4, 16)
    assert np.array_equal(draw().ids, draw().ids)
    assert draw().digest == draw().digest != draw(seed=1).digest
    assert np.array_equal(draw(tokens=32).ids, draw().ids[:2])
    assert np.ptp(draw(tokens=128).ids[:, 0]) > WORDS // 2
    assert draw(tokens=1).ids.shape == (1, 16)


def test_a_tokenizer_that_begins_texts_begins_windows(book: Path) -> None:
    windows = CalibrationText((book,), tokens=64, context=16).windows(tokenizer(bos=True))
    assert (windows.ids[:, 0] == WORDS).all()
    assert (windows.ids[:, 1:] != WORDS).all()


def test_a_model_with_fewer_positions_gets_shorter_windows(book: Path) -> None:
    assert CalibrationText((book,), tokens=64, context=16).windows(tokenizer(), positions=8).ids.shape == (8, 8)


def test_documents_of_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"w{i} w{i}", "more": 1}) + "\n" for i in range(20)) + "\n")
    assert read_documents(path) == [f"w{i} w{i}" for i in range(20)]
    assert CalibrationText((path, path), tokens=16, context=8).windows(tokenizer()).ids.shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("a.txt", b"", FormatError, "expected a calibration text, got an empty file"),
        ("a.txt", b" \n", FormatError, "expected a calibration text, got an empty file"),
        ("a.txt", b"w1 \xff", FormatError, "expected UTF-8, got byte 0xff at offset 3"),
        ("a.txt", b"w1 w2 w3", ShapeError, "at least one window of 16 tokens"),
        ("a.jsonl", b'{"text": "w1"}\n{"txt": "w1"}\n', FormatError, "line 2: expected an object with a 'text', got one with 'txt'"),
        ("a.jsonl", b'["w1"]', FormatError, "line 1: expected an object with a 'text', got list"),
        ("a.jsonl", b"w1", FormatError, "line 1"),
        (None, b"", StorageError, "nothing"),
    ],
)
def test_what_is_no_calibration_text(name: str | None, data: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / (name or "nothing")
    if name is not None:
        path.write_bytes(data)
    with pytest.raises(error, match=message):
        CalibrationText((path,), context=16).windows(tokenizer())


@pytest.mark.parametrize("values", [{"tokens": 0}, {"context": 1}, {"seed": -1}, {"tokens": 1.5}, {"seed": True}, {"paths": ()}])
def test_settings_that_mean_nothing(values: dict) -> None:
    with pytest.raises(SchemeError, match="expected"):
        CalibrationText(**{"paths": ("a",)} | values)


@pytest.mark.parametrize("ids", [np.zeros(3, int), np.zeros((2, 0), int), np.zeros((2, 3)), [[1]], np.array([[-1]])])
def test_tokens_that_are_none(ids) -> None:
    with pytest.raises(KbitError, match="expected"):
        CalibrationWindows(ids)
