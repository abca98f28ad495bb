from pathlib import Path

import numpy as np
import pytest

from kbit.core.errors import ShapeError
from kbit.evaluate.windows import read_text, tokenize
from kbit.store.tokenizer import load_tokenizer
from kbit.study.text import digest_texts, spread_windows


def test_windows_come_from_all_over(lab: Path) -> None:
    text = tokenize(read_text(lab / "heldout.txt"), load_tokenizer(lab / "a"))
    windows = spread_windows(text, 32, 3)
    step = (len(text.ids) - 1) // 3
    assert len(windows) == 3
    for index, window in enumerate(windows):
        np.testing.assert_array_equal(window.inputs, text.ids[index * step : index * step + 32])
        np.testing.assert_array_equal(window.targets[:-1], window.inputs[1:])
    assert windows.protocol.tokens == 96


def test_zero_is_the_whole_text(lab: Path) -> None:
    text = tokenize(read_text(lab / "heldout.txt"), load_tokenizer(lab / "a"))
    assert spread_windows(text, 32, 0).protocol.tokens == len(text.ids) - 1


def test_refuses_more_windows_than_there_are(lab: Path) -> None:
    text = tokenize(read_text(lab / "heldout.txt"), load_tokenizer(lab / "a"))
    with pytest.raises(ShapeError, match="at least 1000 windows"):
        spread_windows(text, 32, 1000)


def test_digest_is_of_contents(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "two.txt").write_text("a")
    assert digest_texts([tmp_path / "one.txt"]) == digest_texts([tmp_path / "two.txt"])
    assert digest_texts([tmp_path]) == digest_texts([tmp_path / "one.txt", tmp_path / "two.txt"])
    (tmp_path / "two.txt").write_text("b")
    assert digest_texts([tmp_path / "one.txt"]) != digest_texts([tmp_path / "two.txt"])
