"""Sums on disk: the same arithmetic, the limit kept, nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationWindows
from kbit.calibrate.room import Room
from kbit.calibrate.sequential import calibration_bytes, encode_sequentially
from kbit.core.errors import SchemeError, StorageError
from kbit.core.plan import Plan
from kbit.nn.targets import find_targets

Make = Callable[[str], nn.Module]


def test_what_goes_over_the_limit_lies_in_files_without_names(tmp_path: Path) -> None:
    room = Room(1000, tmp_path)
    kept, spilled = room.zeros(10, 20), room.zeros(10, 20)
    assert room.spilled_bytes == 800
    for sums in (kept, spilled):
        assert sums.dtype == torch.float32
        assert not sums.any()
        sums.add_(3)
        assert float(sums.sum()) == 600
    assert not list(tmp_path.iterdir())
    room.clear()
    room.zeros(200)
    assert room.spilled_bytes == 800


@pytest.mark.parametrize("kind", ["mixtral", "llama"])
@pytest.mark.parametrize("text", ["int3:g16+imp+gptq", "kmeans2:g16+gptq"])
def test_a_limit_changes_no_byte(kind: str, text: str, make_model: Make, ids: torch.Tensor, tmp_path: Path) -> None:
    def encoded(room: Room) -> dict[str, bytes]:
        model = make_model(kind)
        targets, _ = find_targets(model, Plan.of(text).scheme_for)
        found = encode_sequentially(model, targets, CalibrationWindows(ids.numpy()), room=room)
        return {f"{target.name}.{part}": array.tobytes() for target, tensor in found for part, array in tensor.parts().items()}

    free, tight, half = Room(), Room(1, tmp_path), Room(20_000, tmp_path)
    expected = encoded(free)
    assert encoded(tight) == expected == encoded(half)
    assert free.spilled_bytes == 0
    assert tight.spilled_bytes > half.spilled_bytes > 0
    assert not list(tmp_path.iterdir())


def test_the_estimate_knows_the_limit(make_model: Make, ids: torch.Tensor) -> None:
    model = make_model("mixtral")
    targets, _ = find_targets(model, Plan.of("int3:g16+gptq").scheme_for)
    windows = CalibrationWindows(ids.numpy())
    free, limited = calibration_bytes(model, targets, windows), calibration_bytes(model, targets, windows, 10_000)
    assert free - limited > 4 * 4 * (64**2 + 80**2) - 10_000


def test_limits_that_mean_nothing(tmp_path: Path) -> None:
    for limit, folder in ((0, tmp_path), (5, None)):
        with pytest.raises(SchemeError, match="memory limit of at least 1 byte"):
            Room(limit, folder)
    with pytest.raises(StorageError):
        Room(1, tmp_path / "nowhere").zeros(np.int64(5))
