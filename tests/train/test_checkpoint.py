from pathlib import Path

import pytest
import torch

from kbit.core.errors import FormatError, ResumeMismatch
from kbit.train.checkpoint import Checkpoint, random_state, restore_random_state


def state(digest: str = "d") -> Checkpoint:
    return Checkpoint(
        digest, 7, {"w": torch.arange(3.0)}, {"state": {0: {"step": torch.tensor(7.0)}}}, [random_state()], 1.5, [2.0], [[8, 2.0]]
    )


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    state().save(tmp_path / "c")
    drawn = torch.rand(4)
    found = Checkpoint.load(tmp_path / "c", "d")
    assert found is not None
    assert (found.step, found.seconds, found.losses, found.history) == (7, 1.5, [2.0], [[8, 2.0]])
    assert torch.equal(found.model["w"], torch.arange(3.0))
    restore_random_state(found.random[0])
    assert torch.equal(torch.rand(4), drawn)


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert Checkpoint.load(tmp_path / "c", "d") is None


def test_refuses_those_of_others(tmp_path: Path) -> None:
    state("other").save(tmp_path / "c")
    with pytest.raises(ResumeMismatch, match="another recipe"):
        Checkpoint.load(tmp_path / "c", "d")


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_refuses_what_is_no_checkpoint(tmp_path: Path, cut: int) -> None:
    state().save(tmp_path / "c")
    data = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(data[: len(data) // 2] if cut < 0 else data[:cut])
    with pytest.raises(FormatError, match="expected a checkpoint"):
        Checkpoint.load(tmp_path / "c", "d")


def test_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("boo",)

    torch.save({"version": 1, "model": Trap()}, tmp_path / "c")
    with pytest.raises(FormatError):
        Checkpoint.load(tmp_path / "c", "d")
