"""`Exclusive`: a machine that several people share, alone for a while."""

import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

__all__ = ["Exclusive"]

REST_SECONDS = 2


class Exclusive:
    """Has the machine while something is timed, and lets others have it every so often.

    Args:
        turnstile: words of a command that runs the command after it once it is alone, such as ``flock /tmp/machine``; none for a machine
            of one's own.
        hold_seconds: longest time between two chances for others, if `breathe` is called often enough.
    """

    def __init__(self, turnstile: Sequence[str], hold_seconds: float = 120) -> None:
        self._turnstile, self._hold_seconds = turnstile, hold_seconds
        self._held: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        if self._turnstile:
            self._held = subprocess.Popen([*self._turnstile, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            assert self._held.stdin is not None
            assert self._held.stdout is not None
            self._held.stdin.write(b"\n")
            if not self._held.stdout.readline():  # `cat` answers once it runs, and runs until its input ends
                raise RuntimeError(f"turnstile {' '.join(self._turnstile)!r} ended with {self._held.wait()}")
        self._since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._held is not None:
            self._held.communicate()
            self._held = None

    def breathe(self) -> None:
        """Between two timings: lets others go first if the machine has been held long."""
        if self._held is not None and time.monotonic() - self._since > self._hold_seconds:
            self.__exit__(None, None, None)
            time.sleep(REST_SECONDS)
            self.__enter__()
