"""A stored model: a folder like any of Hugging Face's, read tensor by tensor.

Opening reads headers only. In a sealed model they are authenticated as a whole: each shard's digest, all manifests alike, and the root
over all of it; every array that a manifest promises is there with the shape that follows from its scheme. Payloads are held against
their hashes by `verify`, or by `StoredModel.check`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kbit.core.errors import FormatError, IntegrityError, NumericsError
from kbit.core.shown import shown
from kbit.store.check import check_folder
from kbit.store.container import DEFAULT_LIMITS, Container, Memory, open_container
from kbit.store.header import Limits, TensorEntry, near
from kbit.store.manifest import MANIFEST_KEY, ROOT_KEY, Manifest, merge_manifests
from kbit.store.parts import check_parts, part_names
from kbit.store.shards import find_shards, locate
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["StoredModel", "open_model"]


class StoredModel:
    """An open model. Use as a context manager, or `close` it.

    Attributes:
        path: the folder.
        config: its `config.json`.
        manifest: what the seal says of the model; None for a plain 16-bit checkpoint.
        root: the hash that names the model; None for a plain checkpoint.
        containers: file name → open container.
    """

    def __init__(self, path: Path, config: dict[str, Any], containers: Mapping[str, Container], index: Mapping[str, str] | None) -> None:
        self.path, self.config, self.containers = path, config, containers
        self._where = _place_tensors(path, containers, index)
        self.manifest, self.root = _read_manifest(path, containers)
        if self.manifest is not None:
            _check_manifest(self.manifest, self)

    @property
    def tied(self) -> Mapping[str, str]:
        """Name that is not stored → the stored name that stands for it."""
        return {} if self.manifest is None else self.manifest.ties

    @property
    def size_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(container.size_bytes for container in self.containers.values())

    def names(self) -> tuple[str, ...]:
        """All stored tensors, the arrays of quantized modules among them."""
        return tuple(self._where)

    def plain_names(self) -> tuple[str, ...]:
        """Stored tensors that belong to no quantized module."""
        modules = {} if self.manifest is None else self.manifest.modules
        packed = {part for name in modules for part in part_names(name)}
        return tuple(name for name in self._where if name not in packed)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def container_of(self, name: str) -> Container:
        """The file in which a stored tensor lies."""
        if name not in self._where:
            raise FormatError(f"{self.path} has no tensor {name!r}{near(name, self._where)}")
        return self._where[name]

    def entry(self, name: str) -> TensorEntry:
        """dtype, shape, offset and bytes of a tensor (a tied name answers for its owner)."""
        name = self.tied.get(name, name)
        return self.container_of(name).entry(name)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """A whole tensor, read-only; see `Container.array` for its dtype."""
        name = self.tied.get(name, name)
        return self.container_of(name).array(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray[Any, Any]:
        """Some rows of a tensor, read-only."""
        name = self.tied.get(name, name)
        return self.container_of(name).read_rows(name, begin, end)

    def quantized(self, name: str) -> QuantizedTensor:
        """The weight of a quantized module, validated: its codes lie inside the codebook, its scales are finite.

        Raises:
            FormatError: no such module, or codes or padding that no encoder writes.
            NumericsError: a scale or level that is NaN or infinite.
        """
        modules = {} if self.manifest is None else self.manifest.modules
        owner = self.tied.get(name, name)
        if owner not in modules:
            raise FormatError(f"{self.path} has no quantized module {name!r}{near(name, modules)}")
        module = modules[owner]
        parts = {part.removeprefix(f"{owner}."): self.array(part) for part in part_names(owner) if part in self}
        try:
            tensor = QuantizedTensor.from_parts(module.scheme, module.shape, parts)
            tensor.validate()
        except (FormatError, NumericsError) as error:
            raise type(error)(f"{self.container_of(f'{owner}.weight').path}: module {owner!r}: {error}") from None
        return tensor

    def check(self, name: str) -> None:
        """Hold a stored tensor against its hash (`IntegrityError` if it does not match)."""
        self.container_of(name).check(name)

    def close(self) -> None:
        """Close all files."""
        for container in self.containers.values():
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_model(
    path: str | Path,
    *,
    allow_code: bool = False,
    require_seal: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    memory: Memory | None = None,
    mapped: bool = False,
) -> StoredModel:
    """Open a model's folder: one that kbit wrote, or a plain checkpoint in safetensors.

    Args:
        path: the folder.
        allow_code: accept an `auto_map` in the configuration (see `check_folder`).
        require_seal: refuse a folder whose configuration says kbit and whose files carry no seal.
        limits: of each header.
        memory: where tensors are read to; ordinary arrays without it.
        mapped: tensors are the files' own pages (see `open_container`).

    Raises:
        FormatError, LimitError, IntegrityError, StorageError: as their docstrings say.
    """
    folder = Path(path)
    config = check_folder(folder, allow_code=allow_code)
    files, index = find_shards(folder)
    with ExitStack() as stack:
        containers = {name: stack.enter_context(_open_shard(folder, name, limits, memory, mapped)) for name in files}
        model = StoredModel(folder, config, containers, index)
        quantization = config.get("quantization_config")
        if require_seal and model.manifest is None and isinstance(quantization, dict) and quantization.get("quant_method") == "kbit":
            raise FormatError(f"{folder}: config.json says that kbit encoded this model, but its files carry no seal")
        stack.pop_all()
    return model


def _open_shard(folder: Path, name: str, limits: Limits, memory: Memory | None, mapped: bool) -> Container:
    path = locate(folder, name)
    if not path.exists():
        raise FormatError(f"{folder}: the index names {name}, which is missing")
    return open_container(path, limits, memory, mapped=mapped)


def _place_tensors(path: Path, containers: Mapping[str, Container], index: Mapping[str, str] | None) -> dict[str, Container]:
    """Tensor → file, where index and files must say the same."""
    where: dict[str, Container] = {}
    for file_name, container in containers.items():
        for name in container.names():
            if name in where:
                raise FormatError(f"{path}: tensor {name!r} lies in {where[name].path.name} and in {file_name}")
            if index is not None and index.get(name) != file_name:
                raise FormatError(f"{path}: tensor {name!r} lies in {file_name}, but the index says {index.get(name)!r}")
            where[name] = container
    missing = sorted(set(index or ()) - set(where))
    if missing:
        raise FormatError(f"{path}: the index names {len(missing)} tensors that its files do not hold, first {missing[0]!r}")
    return where


def _read_manifest(path: Path, containers: Mapping[str, Container]) -> tuple[Manifest | None, str | None]:
    sealed = {name for name, container in containers.items() if container.hashes is not None}
    if not sealed:
        return None, None
    if sealed != set(containers):
        raise FormatError(f"{path}: {min(set(containers) - sealed)} carries no seal, other files of the model do")
    parts, roots = {}, {}
    for name, container in containers.items():
        for key in (MANIFEST_KEY, ROOT_KEY):
            if key not in container.metadata:
                raise FormatError(f"{container.path}: the metadata lacks {key!r}")
        parts[name] = Manifest.from_text(container.metadata[MANIFEST_KEY], str(container.path))
        roots[name] = container.metadata[ROOT_KEY]
    manifest = merge_manifests(parts)
    hashes = {tensor: sha256 for container in containers.values() for tensor, sha256 in (container.hashes or {}).items()}
    root = manifest.root(hashes)
    for name, stated in roots.items():
        if stated != root:
            raise IntegrityError(f"{path / name}: its metadata names model {shown(stated)}, the folder's files make {root}")
    return manifest, root


def _check_manifest(manifest: Manifest, model: StoredModel) -> None:
    for name, module in manifest.modules.items():
        check_parts(name, module, {part: model.entry(part) for part in part_names(name) if part in model}, str(model.path))
    for alias, owner in manifest.ties.items():
        if alias in model or alias in manifest.modules or not (owner in model or owner in manifest.modules):
            raise FormatError(f"{model.path}: {alias!r} is tied to {owner!r}: expected the first not to be stored, and the second to be")
