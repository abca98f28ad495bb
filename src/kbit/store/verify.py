"""Holds a stored model, byte for byte, against what it says of itself.

Every header against its digest, every tensor against its hash, the manifest against the arrays (as when opening), the root over all of it;
then what the numbers may be: codes inside the codebook, and scales finite. The policy for scales: NaN and infinity are refused;
denormal, zero and negative scales are numbers and mean what they say.
"""

from dataclasses import dataclass
from pathlib import Path

from kbit.store.container import DEFAULT_LIMITS, Container, open_container
from kbit.store.folder import StoredModel, open_model
from kbit.store.header import Limits
from kbit.store.manifest import MANIFEST_KEY, ROOT_KEY, Manifest

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was verified; whatever does not hold is raised as an error instead.

    Attributes:
        ok: always True.
        root: the hash that names the model; None for a plain checkpoint, which states no hashes.
        files: containers read.
        tensors: tensors held against their hash (0 for a plain checkpoint).
        modules: quantized modules whose codes and scales were looked at.
        size_bytes: bytes of all containers.
    """

    ok: bool
    root: str | None
    files: int
    tensors: int
    modules: int
    size_bytes: int


def verify(path: str | Path, *, allow_code: bool = False, limits: Limits = DEFAULT_LIMITS) -> VerifyReport:
    """Verify a model's folder, or a single container.

    Of a single container the root is the one that its sealed header states; holding it against the tensors needs all shards.
    A plain checkpoint gets the structural checks only (no holes, no overlaps, nothing to execute).

    Raises:
        FormatError, LimitError, IntegrityError, NumericsError, StorageError: the first thing that does not hold.
    """
    path = Path(path)
    if path.is_dir():
        with open_model(path, allow_code=allow_code, limits=limits) as model:
            return _verify_model(model)
    with open_container(path, limits) as container:
        if MANIFEST_KEY in container.metadata:
            Manifest.from_text(container.metadata[MANIFEST_KEY], str(path))
        tensors = _check_hashes(container)
        return VerifyReport(True, container.metadata.get(ROOT_KEY), 1, tensors, 0, container.size_bytes)


def _verify_model(model: StoredModel) -> VerifyReport:
    tensors = sum(_check_hashes(container) for container in model.containers.values())
    modules = {} if model.manifest is None else model.manifest.modules
    for name in modules:
        model.quantized(name)
    return VerifyReport(True, model.root, len(model.containers), tensors, len(modules), model.size_bytes)


def _check_hashes(container: Container) -> int:
    if container.hashes is None:
        return 0
    for name in container.names():
        container.check(name)
    return len(container.hashes)
