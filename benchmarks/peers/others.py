"""`Others`: how much of the processors' time went to processes that are not measured. A turn beside somebody's build is no figure."""

import os
import time
from pathlib import Path

__all__ = ["Others"]

BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: all but idle and waiting for disks
GLANCE_SECONDS = 0.5
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Others:
    """Looks at the clock and the processors' time from its making on.

    Args:
        pids: of the processes that are measured; their children are not counted.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._started, self._ticks = time.monotonic(), self._others()

    def share(self) -> float:
        """Part of all processors' time since then that others took."""
        elapsed = (time.monotonic() - self._started) * TICKS_PER_SECOND * (os.cpu_count() or 1)
        return max(0.0, (self._others() - self._ticks) / elapsed)

    @staticmethod
    def wait(end: float, calm_share: float) -> None:
        """Until others leave the processors alone, or to the end of patience (monotonic time)."""
        while True:
            others = Others(os.getpid())
            time.sleep(GLANCE_SECONDS)
            if others.share() <= calm_share or time.monotonic() > end:
                break

    def _others(self) -> int:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        busy = sum(int(fields[index]) for index in BUSY_FIELDS)
        return busy - sum(map(_ticks_of, self._pids))


def _ticks_of(pid: int) -> int:
    """User and system time; the command's name, which may hold spaces, is left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
