import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import FormatError, ModelError, SchemeError, ShapeError, StorageError
from kbit.evaluate.windows import TokenizedText, Windows, read_text, tokenize


def text_of(tokens: int, bos_id: int | None = None) -> TokenizedText:
    """Token i has id i and stands for one byte."""
    return TokenizedText(np.arange(tokens), np.arange(tokens + 1), bos_id, "t", "k")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_token_is_scored_once_with_the_tokens_before_it(data: st.DataObject) -> None:
    context = data.draw(st.integers(2, 12))
    stride = data.draw(st.integers(1, context))
    tokens = data.draw(st.integers(context + 1, 60))
    bos = data.draw(st.sampled_from(["none", "text", "window"]))
    windows = Windows(text_of(tokens, bos_id=1000), context=context, stride=stride, bos=bos)
    scored: list[int] = []
    for window in windows:
        assert window.inputs.size == window.targets.size <= context
        text = window.inputs[1:] if bos == "window" else window.inputs
        # each target follows the inputs before it, without a gap
        assert list(text[text != 1000]) == list(
            range(int(window.targets[0]) - (bos != "window" and text[0] != 1000), int(window.targets[-1]))
        )
        if bos == "window":
            assert window.inputs[0] == 1000
        if window.index:
            assert window.first == context - stride
        scored += list(window.scored)
    assert scored == list(range(bos == "none", tokens))
    assert windows.protocol.tokens == len(scored) == windows.scored_tokens().sum()
    assert windows.protocol.bytes == len(scored) == windows.scored_bytes().sum()
    assert windows.protocol.windows == len(windows) == len(list(windows))


def test_windows_by_hand() -> None:
    first, second, third = Windows(text_of(10), context=4, stride=3)
    assert list(first.inputs) == [0, 1, 2, 3]
    assert list(first.targets) == [1, 2, 3, 4]
    assert first.first == 0
    assert list(second.inputs) == [3, 4, 5, 6]
    assert list(second.scored) == [5, 6, 7]
    assert list(third.inputs) == [6, 7, 8]
    assert list(third.scored) == [8, 9]


def test_bos_once_and_in_every_window() -> None:
    once = Windows(text_of(8, bos_id=99), context=4, bos="text")
    assert [list(w.inputs) for w in once] == [[99, 0, 1, 2], [3, 4, 5, 6]]
    assert [list(w.targets) for w in once] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    each = Windows(text_of(8, bos_id=99), context=4, bos="window")
    assert [list(w.inputs) for w in each] == [[99, 0, 1, 2], [99, 4, 5, 6]]
    assert [list(w.targets) for w in each] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_bos_follows_the_tokenizer_unless_told() -> None:
    assert Windows(text_of(9), context=4).protocol.bos == "none"
    assert Windows(text_of(9, bos_id=99), context=4).protocol.bos == "text"
    assert Windows(text_of(9, bos_id=99), context=4, bos="none").protocol.bos == "none"
    with pytest.raises(ModelError, match="BOS"):
        Windows(text_of(9), context=4, bos="window")
    with pytest.raises(SchemeError, match="none, text or window"):
        Windows(text_of(9), context=4, bos="each")  # type: ignore[arg-type]


def test_limit_scores_the_first_tokens_and_counts_their_bytes() -> None:
    text = TokenizedText(np.arange(20), np.concatenate([[0], np.cumsum(np.arange(1, 21))]), None, "t", "k")
    windows = Windows(text, context=4, limit_tokens=6)
    assert windows.protocol.tokens == 6
    assert windows.protocol.bytes == sum(range(2, 8))  # token i has i + 1 bytes, token 0 is not scored
    assert list(windows.scored_bytes()) == [2 + 3 + 4 + 5, 6 + 7]
    assert Windows(text, context=4, limit_tokens=10**9).protocol.tokens == 19


def test_items_by_index_and_slice() -> None:
    windows = Windows(text_of(13), context=4)
    assert windows[-1].index == 2
    assert [w.index for w in windows[1:]] == [1, 2]
    with pytest.raises(IndexError):
        windows[3]


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (4, {"context": 4}, "at least one window"),
        (0, {"context": 4}, "got 0 tokens"),
        (20, {"context": 4, "limit_tokens": 3}, "at least one window"),
        (20, {"context": 4, "limit_tokens": -5}, "at least one window"),
        (20, {"context": 1}, "at least 2"),
        (20, {"context": 4, "stride": 0}, "stride in 1…4"),
        (20, {"context": 4, "stride": 5}, "stride in 1…4"),
    ],
)
def test_what_does_not_fit_is_refused(tokens: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Windows(text_of(tokens), **options)  # type: ignore[arg-type]


def test_protocol_prints_itself() -> None:
    protocol = Windows(text_of(9), context=4, stride=2).protocol
    assert protocol.text.startswith("context 4, stride 2, BOS none, 8 tokens (8 bytes) in 3 windows")
    assert protocol.to_json()["tokens"] == 8


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet="ab é日🙂\n", min_size=1, max_size=40))
def test_bytes_of_tokens_are_the_bytes_of_their_characters(byte_tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_tokenizer()
    tokens = tokenize(text, tokenizer)
    assert tokens.byte_ends[0] == 0
    assert tokens.byte_ends[-1] == len(text.encode())
    assert (np.diff(tokens.byte_ends) >= 0).all()
    cut = tokens.ids.size // 2
    begun = tokenizer.decode(list(tokens.ids[:cut])).rstrip("\ufffd")  # a split character counts with its first token
    assert len(begun.encode()) <= tokens.byte_ends[cut] <= len(begun.encode()) + 4


def test_tokenizer_options_do_not_leak_in_or_out(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_tokenizer(adds_bos=True)
    plain = tokenize("abc" * 10, tokenizer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    again = tokenize("abc" * 10, tokenizer)
    assert list(plain.ids) == list(again.ids)
    assert plain.ids.size == 20  # ab, c
    assert plain.tokenizer_sha256 == again.tokenizer_sha256
    assert tokenizer.truncation is not None
    assert plain.bos_id == 257
    assert tokenize("abc", byte_tokenizer()).bos_id is None
    assert tokenize("abc", byte_tokenizer(), bos_id=5).bos_id == 5


def test_slow_tokenizers_and_surrogates_are_refused(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        tokenize("abc", object())
    with pytest.raises(FormatError, match="surrogates"):
        tokenize("a\ud800", byte_tokenizer())


def test_files_are_joined_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes("é\r\n".encode())
    (tmp_path / "a.txt").write_bytes(b"one\n")
    (tmp_path / "c.raw").write_bytes(b"raw")
    assert read_text(tmp_path / "b.txt", tmp_path / "a.txt") == "é\r\none\n"
    assert read_text(tmp_path) == "one\né\r\n"


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"abc\xe9 d")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="empty file"):
        read_text(tmp_path / "empty")
    with pytest.raises(FormatError, match="byte 0xe9 at offset 3"):
        read_text(tmp_path / "latin")
    with pytest.raises(StorageError, match="missing"):
        read_text(tmp_path / "missing")
    with pytest.raises(StorageError, match="got none"):
        read_text(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError):  # refused, not waited for
        read_text(tmp_path / "pipe")
