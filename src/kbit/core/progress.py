"""One line that tells how far long work has come, on stderr, never on stdout.

On a terminal the line is redrawn in place, at most ten times a second; elsewhere (a log) a plain line is written every few seconds.
A reporter never stops the work it reports on: a stream that fails is left alone from then on.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from kbit.core.sizes import bytes_text

__all__ = ["Progress"]

_REDRAW_SECONDS = 0.1
_LOG_SECONDS = 5.0


class Progress:
    """Context manager; call `advance` as work is done, from any thread.

    Args:
        total: amount of work, or None where it is not known (then no share and no time left are shown).
        unit: what is counted, such as ``"tensors"``; ``"B"`` counts bytes and shows kB, MB, GB (powers of 1000).
        label: first word of the line.
        stream: where the line goes; stderr by default.
        enabled: False for silence; None for "where there is a stream".
        clock: seconds that never go back.
    """

    def __init__(
        self,
        total: float | None,
        unit: str,
        label: str,
        *,
        stream: TextIO | None = None,
        enabled: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.unit = unit
        self.label = label
        self.done = 0.0
        self._before = 0.0
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled is not False and self._stream is not None and not self._stream.closed
        self._terminal = self._enabled and self._stream.isatty()
        self._clock = clock
        self._started = self._shown = clock()
        self._note = ""
        self._width = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._terminal:
            self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._note = "" if kind is None else "stopped"
            self._show(last=True)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Counts `amount` more of the work; `note` says what is at hand, such as a tensor's name."""
        with self._lock:
            self.done += amount
            self._note = note
            interval = _REDRAW_SECONDS if self._terminal else _LOG_SECONDS
            if self._enabled and self._clock() - self._shown >= interval:
                self._show()

    def begin_at(self, amount: float) -> None:
        """Counts `amount` of the work as done by an earlier run: it is part of the share, not of the rate."""
        with self._lock:
            self.done = self._before = amount

    def line(self) -> str:
        """The line as it would be shown now."""
        elapsed = max(self._clock() - self._started, 0.0)
        rate = (self.done - self._before) / elapsed if elapsed > 0 else 0.0
        parts = [self.label]
        if self.total:
            parts.append(f"{min(self.done / self.total, 1.0):4.0%}")
        parts.append(self._amounts())
        if rate > 0:
            parts.append(f"{self._amount(rate)}/s")
        if self.total is not None and self.done >= self.total:
            parts.append(f"in {_duration(elapsed)}")
        elif self.total is not None and rate > 0:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        # names come from files: no control characters reach the terminal
        parts.append("".join(letter if letter.isprintable() else "?" for letter in self._note))
        return "  ".join(part for part in parts if part)

    def _amounts(self) -> str:
        if self.unit == "B":
            total = "" if self.total is None else f" of {self._amount(self.total)}"
            return f"{self._amount(self.done)}{total}"
        total = "" if self.total is None else f"/{self.total:.0f}"
        return f"{self.done:.0f}{total} {self.unit}"

    def _amount(self, value: float) -> str:
        if self.unit == "B":
            return bytes_text(value)
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    def _show(self, last: bool = False) -> None:
        if not self._enabled:
            return
        self._shown = self._clock()
        line = self.line()
        if self._terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            line, self._width = "\r" + line.ljust(self._width), len(line)
        try:
            self._stream.write(line + "\n" * (last or not self._terminal))
            self._stream.flush()
        except (OSError, ValueError):  # closed, broken pipe, or an encoding without our letters
            self._enabled = False


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
