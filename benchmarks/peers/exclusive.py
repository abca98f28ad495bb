"""`Exclusive`: a machine that several people share, alone for a while."""

import fcntl
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["Exclusive"]


class Exclusive:
    """Holds locks (``flock``) while something is timed, and lets others have them every so often.

    Args:
        paths: lock files, taken in this order; none for a machine of one's own.
        hold_seconds: longest time between two chances for others, if `breathe` is called often enough.
    """

    def __init__(self, paths: Sequence[Path], hold_seconds: float = 150) -> None:
        self._paths, self._hold_seconds = paths, hold_seconds
        self._files: list[IO[bytes]] = []
        self._since = 0.0

    def __enter__(self) -> Self:
        for path in self._paths:
            file = path.open("ab")
            self._files.append(file)
            fcntl.flock(file, fcntl.LOCK_EX)
        self._since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files:
            file.close()
        self._files.clear()

    def breathe(self) -> None:
        """Between two timings: lets others go first if the locks have been held long."""
        if self._paths and time.monotonic() - self._since > self._hold_seconds:
            self.__exit__(None, None, None)
            time.sleep(2)
            self.__enter__()
