"""Quality cells on a Ray cluster: the same cells, the same `measure`, the same rows.

The study's process keeps the store; workers only measure, one cell a task and one core each. Models, texts and the cache of original logits
must lie at the same (absolute) paths on every machine. A worker or machine that dies has its cells measured elsewhere, by Ray's retries.
"""

from collections.abc import Callable, Sequence
from typing import Any

from kbit.core.errors import MissingExtraError, StorageError
from kbit.study.cell import QualityCell
from kbit.study.measure import failed_row, measure, use_one_thread

__all__ = ["run_cluster"]

Done = Callable[[QualityCell, dict[str, Any]], None]
_RETRIES = 3


def run_cluster(cells: Sequence[QualityCell], done: Done, cache_folder: str, address: str) -> None:
    """Measure cells on the cluster at `address`; ``local`` starts one of this machine's cores.

    Raises:
        MissingExtraError: Ray is not installed.
        StorageError: no cluster there.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "cluster") from None
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except Exception as error:  # Ray raises bare exceptions where one does not start in time
        raise StorageError(f"no Ray cluster at {address!r}: {error}") from None
    try:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_measure)
        waiting = list(cells)[::-1]
        running: dict[Any, QualityCell] = {}
        while waiting or running:
            while waiting and len(running) < 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                cell = waiting.pop()
                running[remote.remote(cell, cache_folder)] = cell
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                cell = running.pop(reference)
                try:
                    row = ray.get(reference)
                except ray.exceptions.RayError as error:
                    row = failed_row(cell, f"its workers died {_RETRIES + 1} times: {type(error).__name__}", 0.0)
                done(cell, row)
    finally:
        ray.shutdown()


def _measure(cell: QualityCell, cache_folder: str) -> dict[str, Any]:
    use_one_thread()
    return measure(cell, cache_folder)
