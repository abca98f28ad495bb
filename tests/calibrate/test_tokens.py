"""Files of token ids: read as they are, cut by the seed, and refused where they are something else."""

from pathlib import Path

import numpy as np
import pytest

from kbit.calibrate import CalibrationText
from kbit.core.errors import FormatError, KbitError, ModelError, SchemeError, ShapeError


def test_both_forms_give_the_same_windows(tmp_path: Path) -> None:
    ids = np.arange(3000) % 500
    np.save(tmp_path / "a.npy", ids)
    ids.astype("<u2").tofile(tmp_path / "a.bin")
    ids.astype("<u4").tofile(tmp_path / "b.bin")
    one, other = (CalibrationText((tmp_path / name,), tokens=320, context=64).windows(None, vocabulary=500) for name in ("a.npy", "a.bin"))
    assert one.ids.shape == (5, 64)
    assert one.digest == other.digest
    wide = CalibrationText((tmp_path / "b.bin",), tokens=320, context=64).windows(None, vocabulary=70_000)
    assert wide.digest == one.digest
    starts = {int(window[0]) for window in one.ids}
    assert all((window == (np.arange(64) + window[0]) % 500).all() for window in one.ids)
    assert {start % 4 for start in starts} == {0}  # whole windows of the file
    assert CalibrationText((tmp_path / "a.npy",), tokens=320, context=64, seed=1).windows(None).digest != one.digest


def test_windows_in_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.arange(60, dtype=np.int32).reshape(6, 10))
    found = CalibrationText((tmp_path / "w.npy",), context=10).windows(None, vocabulary=60)
    assert sorted(found.ids[:, 0].tolist()) == [0, 10, 20, 30, 40, 50]
    with pytest.raises(ShapeError, match="expected windows of 8 tokens, got a file of windows of 10"):
        CalibrationText((tmp_path / "w.npy",), context=8).windows(None)


@pytest.mark.parametrize(
    ("name", "content", "vocabulary", "error", "message"),
    [
        ("x.npy", b"no array", 10, FormatError, r"x.npy: expected a .npy file of token ids"),
        ("x.npy", np.ones(4), 10, FormatError, r"expected integers \[tokens\] or \[windows, context\], got float64"),
        ("x.npy", np.ones((1, 1, 4), int), 10, FormatError, r"got int64 of shape \[1, 1, 4\]"),
        ("x.npy", np.array([1, 2, 10]), 10, FormatError, r"expected token ids of 0…9, got 10 at \[2\]"),
        ("x.npy", np.array([[1, -2]]), None, FormatError, r"got -2 at \[0, 1\]"),
        ("x.npy", np.array([None]), 10, FormatError, "Object arrays cannot be loaded"),
        ("x.npy", np.zeros(0, int), 10, FormatError, "expected token ids, got none"),
        ("x.npy", np.ones(3, int), 10, ShapeError, "at least one window of 4 tokens"),
        ("x.bin", b"\1\0\2", 10, FormatError, "expected ids of 2 bytes each for a vocabulary of 10, got 3 bytes"),
        ("x.bin", b"\1\0", None, ModelError, "config.json has no vocab_size"),
    ],
)
def test_what_is_no_file_of_tokens(name: str, content, vocabulary, error: type[KbitError], message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    with pytest.raises(error, match=message):
        CalibrationText((path,), context=4).windows(None, vocabulary=vocabulary)


def test_texts_and_tokens_do_not_mix() -> None:
    with pytest.raises(SchemeError, match="got both"):
        CalibrationText(("a.txt", "b.npy"))
    with pytest.raises(ModelError, match="expected a tokenizer"):
        CalibrationText(("a.txt",)).windows(None)
