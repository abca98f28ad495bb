"""Everything that the next step depends on, in one file that is whole or absent.

Weights, moments of the optimizer, the random generators of every process, the step (which is the place in the data) and what has been
measured so far. A run that goes on from it, on the same machine with as many threads and processes, ends with the bits that it would have
had without the kill.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from kbit.core.errors import FormatError, ResumeMismatch
from kbit.core.files import atomic_write, open_regular, storage_errors

__all__ = ["Checkpoint", "random_state", "restore_random_state"]

_VERSION = 1


@dataclass(slots=True)
class Checkpoint:
    """State after `step` steps.

    Attributes:
        recipe_digest: of the recipe that it belongs to.
        step: steps done.
        model, optimizer: their ``state_dict``.
        random: state of the generators, one entry a process.
        seconds: time spent so far.
        losses: training losses of the last steps, nats a token.
        history: [tokens, mean training loss] every so often.
    """

    recipe_digest: str
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    random: list[dict[str, Any]]
    seconds: float
    losses: list[float] = field(default_factory=list)
    history: list[list[float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes it atomically.

        Raises:
            StorageError: the disk said no.
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        with atomic_write(path) as file:
            torch.save({"version": _VERSION, **values}, file)

    @classmethod
    def load(cls, path: Path, recipe_digest: str) -> Self | None:
        """The checkpoint at `path`; None where there is none.

        Raises:
            FormatError: it is no checkpoint.
            ResumeMismatch: it is of another recipe, text, tokenizer or version.
            StorageError: it cannot be read.
        """
        if not path.exists():
            return None
        with open_regular(path) as file, storage_errors(path, "read"):
            data = file.read()
        try:
            values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            version = values.pop("version")
            found = cls(**values)
        except Exception as error:  # torch raises whatever its reader meets
            raise FormatError(f"{path}: expected a checkpoint of kbit train: {type(error).__name__}") from None
        if version != _VERSION or found.recipe_digest != recipe_digest:
            raise ResumeMismatch(f"{path} belongs to another recipe, text or tokenizer: train into another folder, or use --overwrite")
        return found


def random_state() -> dict[str, Any]:
    """Generators of this process."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts the generators of this process where they were."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
