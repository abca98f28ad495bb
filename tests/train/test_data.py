import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from kbit.core.errors import FormatError, MissingExtraError, ModelError, ShapeError, StorageError
from kbit.store.tokenizer import load_tokenizer
from kbit.train.data import TokenStream, prepare_tokens, read_training_text, text_files


def test_documents_end_with_the_end_of_text(family: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family / "tokenizer")
    stream = prepare_tokens([family / "text"], tokenizer, "\0", tmp_path)
    documents = [*(family / "text" / "one.txt").read_text().split("\0"), (family / "text" / "two.txt").read_text()]
    expected = [token for document in documents for token in [*tokenizer.encode(document).ids, 0]]
    assert stream.ids.tolist() == expected
    assert stream.ids.dtype == np.uint16


def test_tokens_are_made_once(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(family / "tokenizer")
    first = prepare_tokens([family / "text"], tokenizer, "\0", tmp_path)
    monkeypatch.setattr("kbit.train.data.read_training_text", lambda path: pytest.fail("read again"))
    second = prepare_tokens([family / "text"], tokenizer, "\0", tmp_path)
    assert (second.digest, second.ids.tolist()) == (first.digest, first.ids.tolist())


def test_another_separator_is_another_text(family: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family / "tokenizer")
    digests = {prepare_tokens([family / "text"], tokenizer, separator, tmp_path).digest for separator in ("\0", "", "whale")}
    assert len(digests) == 3


def test_an_epoch_shows_every_window_once_and_each_in_another_order() -> None:
    stream = TokenStream(np.arange(32 * 10 + 5, dtype=np.uint16), "")
    seen = [number for step in range(5) for number in stream.batch(step, 4, 32, seed=3)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert seen != [number for step in range(5) for number in stream.batch(step, 4, 32, seed=4)]
    window = stream.windows([2], 32)[0]
    assert window.tolist() == list(range(64, 97))


def test_refuses_texts_that_are_too_short() -> None:
    with pytest.raises(ShapeError, match="at least 33 tokens, got 20"):
        TokenStream(np.arange(20, dtype=np.uint16), "").batch(0, 1, 32, 0)


def test_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.zst", "c.md"):
        (tmp_path / name).write_text("x")
    assert [file.name for file in text_files([tmp_path])] == ["a.txt.zst", "b.txt"]
    with pytest.raises(FormatError, match=r"c\.md: expected a text"):
        text_files([tmp_path / "c.md"])
    with pytest.raises(StorageError, match="none"):
        text_files([tmp_path / "d.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty"):
        text_files([tmp_path / "empty"])


def test_zstandard(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress("Grüße".encode()) + zstandard.compress(b" again"))
    assert read_training_text(path) == "Grüße again"
    path.write_bytes(b"not it")
    with pytest.raises(FormatError, match="zstandard"):
        read_training_text(path)


def test_says_what_zstandard_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"kbit\[train\]"):
        read_training_text(tmp_path / "a.txt.zst")


def test_refuses_bytes_and_empty_texts(family: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(FormatError, match="0xff at offset 2"):
        read_training_text(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(FormatError, match="empty"):
        prepare_tokens([tmp_path / "a.txt"], load_tokenizer(family / "tokenizer"), "", tmp_path)


def test_refuses_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ModelError, match="end-of-text"):
        prepare_tokens([tmp_path / "a.txt"], Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")), "", tmp_path)
