import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kbit.core.errors import FormatError, LimitError, ModelError, ShapeError, StorageError
from kbit.evaluate import logits
from kbit.evaluate.divergence import compare
from kbit.evaluate.logits import ModelLogits, ReferenceLogits, batches, inference
from kbit.evaluate.windows import TokenizedText, Windows

Build = Callable[..., torch.nn.Module]
Text = Callable[..., TokenizedText]


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_kept_logits_are_the_models_own(tiny_llama: Build, random_text: Text, tmp_path: Path, limit: int) -> None:
    model, windows = tiny_llama(), Windows(random_text(45), context=8, stride=3)
    source = ModelLogits(model)
    with ReferenceLogits.compute(model, windows, batch_size=1, memory_limit_bytes=limit, directory=tmp_path) as kept:
        assert kept.size_bytes == 4 * 44 * 50
        assert kept.in_memory is bool(limit)
        assert not list(tmp_path.iterdir())  # the file has no name
        with inference(model):
            for window in windows:
                assert torch.equal(kept.rows([window])[0], source.rows([window])[0])


def test_one_run_of_the_original_serves_many(tiny_llama: Build, random_text: Text, tmp_path: Path) -> None:
    original, windows = tiny_llama(), Windows(random_text(45), context=8, stride=3)
    variants = [tiny_llama(seed=seed) for seed in (1, 2)]
    with ReferenceLogits.compute(original, windows, memory_limit_bytes=0, directory=tmp_path) as kept:
        for variant in variants:
            assert compare(variant, kept, windows) == compare(variant, original, windows)


def test_saved_logits_come_back_mapped(tiny_llama: Build, random_text: Text, tmp_path: Path) -> None:
    model, windows = tiny_llama(), Windows(random_text(100), context=16)
    with ReferenceLogits.compute(model, windows) as kept:
        kept.save(tmp_path / "logits.npy")
        loaded = ReferenceLogits.load(tmp_path / "logits.npy", windows, kept.vocabulary)
        for ours, theirs in zip(loaded.rows(list(windows)), kept.rows(list(windows)), strict=True):
            assert torch.equal(ours, theirs)
        assert compare(loaded, kept, windows).divergence.kl_max.value == 0.0
    with pytest.raises(FormatError, match="expected logits float32"):
        ReferenceLogits.load(tmp_path / "logits.npy", Windows(random_text(90), context=16), loaded.vocabulary)
    (tmp_path / "other.npy").write_bytes(b"no array")
    with pytest.raises(FormatError, match=r"other\.npy"):
        ReferenceLogits.load(tmp_path / "other.npy", windows, loaded.vocabulary)
    with pytest.raises(StorageError):
        ReferenceLogits.load(tmp_path / "none.npy", windows, loaded.vocabulary)
    kept.close()
    with pytest.raises(ModelError, match="closed"):
        kept.save(tmp_path / "closed.npy")


def test_other_windows_and_closed_logits_are_refused(tiny_llama: Build, random_text: Text) -> None:
    windows = Windows(random_text(45), context=8)
    kept = ReferenceLogits.compute(tiny_llama(), windows)
    with pytest.raises(ShapeError, match="windows of the reference"):
        compare(tiny_llama(), kept, Windows(random_text(45), context=8, stride=4))
    kept.close()
    with pytest.raises(ModelError, match="closed"):
        compare(tiny_llama(), kept, windows)


def test_a_disk_too_small_is_an_error_before_the_work(random_text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(random_text(45), context=8)
    with pytest.raises(LimitError, match="limit the tokens"):
        ReferenceLogits(windows, 1 << 50, memory_limit_bytes=0, directory=tmp_path)
    with pytest.raises(StorageError, match="reference logits"):
        ReferenceLogits(windows, 50, memory_limit_bytes=0, directory=tmp_path / "missing")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logits.os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        ReferenceLogits(windows, 50, memory_limit_bytes=0, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_temporary_file_goes_to_the_temporary_folder(random_text: Text) -> None:
    kept = ReferenceLogits(Windows(random_text(45), context=8), 50, memory_limit_bytes=0)
    assert not kept.in_memory
    assert Path(tempfile.gettempdir()).is_dir()
    kept.close()


def test_batches_hold_windows_of_one_length(random_text: Text) -> None:
    windows = Windows(random_text(45), context=8)
    assert [len(batch) for batch in batches(windows, 2, 50)] == [2, 2, 1, 1]
    assert [window.index for batch in batches(windows, 2, 50) for window in batch] == list(range(6))
    assert [len(batch) for batch in batches(windows, None, 50)] == [5, 1]
    assert [len(batch) for batch in batches(windows, None, 1 << 24)] == [1] * 6  # a big vocabulary: one at a time


def test_a_16_bit_model_answers_in_float32(tiny_llama: Build, random_text: Text) -> None:
    model = tiny_llama().to(torch.bfloat16)
    windows = Windows(random_text(20), context=8)
    with inference(model):
        rows = ModelLogits(model).rows([windows[0]])[0]
    assert rows.dtype == torch.float32
    assert np.isfinite(rows.numpy()).all()
