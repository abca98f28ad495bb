"""TensorBoard and Weights & Biases, through accelerate's trackers."""

import importlib.util
from collections.abc import Sequence

from kbit.core.errors import MissingExtraError, SchemeError
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["TRACKERS", "check_trackers"]

#: what ``--track`` knows → the package it takes
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed, which accelerate would leave out without a word.

    Raises:
        SchemeError: an unknown name.
        MissingExtraError: its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise SchemeError(f"unknown tracker {shown(name)}: {suggest(name, TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise MissingExtraError(TRACKERS[name], "track")
