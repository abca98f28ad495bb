"""Quality cells on this machine: a process a core, one thread each.

A worker that dies takes down the pool, not the study: the cells that were being measured are tried again, each alone, and one that kills
its worker twice is a failed row. Workers end when the study's process does, however it ends.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from kbit.study.cell import QualityCell
from kbit.study.measure import failed_row, measure, use_one_thread

__all__ = ["run_local"]

Done = Callable[[QualityCell, dict[str, Any]], None]
Measure = Callable[[QualityCell, str], dict[str, Any]]


def run_local(cells: Sequence[QualityCell], done: Done, cache_folder: str, workers: int, measured: Measure = measure) -> None:
    """Measure cells in `workers` processes; `done` gets each row in this one. One worker is this process itself.

    Args:
        cells: in the order in which they are begun.
        done: what keeps a row.
        cache_folder: as `measure`.
        workers: processes.
        measured: what makes a row of a cell.
    """
    if workers == 1:
        for cell in cells:
            done(cell, measured(cell, cache_folder))
        return
    for cell in _run_pool(list(cells), done, cache_folder, workers, measured):
        if _run_pool([cell], done, cache_folder, 1, measured):
            done(cell, failed_row(cell, "the process that measured it died, twice (out of memory?)", 0.0))


def _run_pool(cells: list[QualityCell], done: Done, cache_folder: str, workers: int, measured: Measure) -> list[QualityCell]:
    """Runs cells; pools that broke are replaced. Gives the cells that were in the hands of a pool as it broke."""
    suspects: list[QualityCell] = []
    waiting = cells[::-1]
    while waiting:
        running: dict[Future[dict[str, Any]], QualityCell] = {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        running[pool.submit(measured, waiting[-1], cache_folder)] = waiting[-1]  # refused by a pool that broke
                        waiting.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row = future.result()
                        done(running.pop(future), row)
            except BrokenProcessPool:
                for future, cell in running.items():
                    if future.done() and not future.cancelled() and future.exception() is None:
                        done(cell, future.result())
                    elif cell not in suspects:
                        suspects.append(cell)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return suspects


def _begin(parent: int) -> None:
    use_one_thread()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
