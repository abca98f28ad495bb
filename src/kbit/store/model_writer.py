"""Writes a model's folder tensor by tensor, with bounded memory, and goes on after a kill.

    with ModelWriter("out", manifest, plain_specs, binding={"model": digest}) as writer:
        for name in writer.pending():                      # what an earlier run finished is not in here
            if name in manifest.modules:
                writer.put_quantized(name, encode(load(name)))
            else:
                writer.copy(source, name)
        writer.finish(config, side_files(source.path))

Work grows in `out.partial` beside `out`, with a journal of finished units (a module's arrays, or a plain tensor). A killed run leaves
`out` as it was; the next run with the same binding takes over every unit whose bytes still hash to what the journal says, and ends with
the same bytes as an uninterrupted one. `finish` reads everything back, then swaps the folder into place in one step.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kbit.core.digest import digest_json
from kbit.core.errors import FormatError, IntegrityError, KbitError, StorageError
from kbit.core.files import lock, open_regular, storage_errors, write_json
from kbit.core.temporary import put_back, replace_directory, sync_directory, sync_tree
from kbit.store.check import side_files
from kbit.store.folder import StoredModel, open_model
from kbit.store.header import TensorSpec, near
from kbit.store.journal import Journal
from kbit.store.layout import layout_units
from kbit.store.manifest import MANIFEST_KEY, ROOT_KEY, Manifest
from kbit.store.shards import INDEX_NAME, plan_shards, write_index
from kbit.store.writer import ContainerWriter, file_order
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["DEFAULT_SHARD_BYTES", "ModelWriter", "seal_model"]

DEFAULT_SHARD_BYTES = 5_000_000_000
PIECE_BYTES = 16 << 20
#: a loss of this many digits always fits where the header is reserved
WIDEST_LOSS = -2.2250738585072014e-308


class ModelWriter:
    """See the module's docstring.

    Args:
        path: the folder to be.
        manifest: what the model will be; its modules have slots for all their arrays.
        plain: the tensors that stay as they are.
        binding: JSON values that must be the same for an unfinished run to be continued: model digest, configuration, code version.
        max_shard_bytes: tensors a file holds; a module is never split over files.
        overwrite: replace a folder that is there; else `StorageError`, before any work.
        resume: continue unfinished work; False throws it away.

    Raises:
        ResumeMismatch: `path.partial` holds unfinished work of another run.
        FormatError, LimitError: a manifest or names that no reader would take; sharding bounds what a file holds.
        StorageError: another writer is at it, `path` is taken, or the disk said no (a full disk is found here, not at the end).
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        plain: Iterable[TensorSpec] = (),
        *,
        binding: Mapping[str, Any] | None = None,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        overwrite: bool = False,
        resume: bool = True,
    ) -> None:
        self.path = Path(path).resolve()
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.manifest = manifest
        self._overwrite = overwrite
        self._units = layout_units(manifest, plain)
        self._unit_of = {spec.name: unit for unit, specs in self._units.items() for spec in specs}
        self._layout = {name: file_order(specs) for name, specs in plan_shards(self._units.values(), max_shard_bytes).items()}
        self._shard_of = {spec.name: name for name, specs in self._layout.items() for spec in specs}
        self._reserved = {name: self._metadata(name, "0" * 64, WIDEST_LOSS) for name in self._layout}
        for name, metadata in self._reserved.items():  # what no reader accepts is refused before the work, not after it
            Manifest.from_text(metadata[MANIFEST_KEY], name)
        self._journal_path = self.path.with_name(self.path.name + ".journal")
        self._done: set[str] = set()
        self._shards: dict[str, ContainerWriter] = {}
        self._published: str | None = None
        with ExitStack() as stack:
            with storage_errors(self.path, "make the folder"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(self.path.with_name(self.path.name + ".lock")))
            put_back(self.path)
            if not resume:
                self._journal_path.unlink(missing_ok=True)
            if not overwrite:
                self._check_vacant()
            self._journal = stack.enter_context(Journal(self._journal_path, self._binding(binding or {})))
            self._published = self._find_published()
            if self._published is None:
                self._open_shards(stack)
            self._stack = stack.pop_all()

    def _binding(self, given: Mapping[str, Any]) -> dict[str, Any]:
        stated = replace(self.manifest, modules={}, loss=None).to_json()
        layout = {name: [[spec.name, spec.dtype, list(spec.shape)] for spec in specs] for name, specs in self._layout.items()}
        modules = {name: module.to_json() for name, module in self.manifest.modules.items()}
        return {**stated, "modules": digest_json(modules), "layout": digest_json(layout), **given}

    def _check_vacant(self) -> None:
        if self.path.exists() and not self._journal_path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise StorageError(errno.EEXIST, "already there; it is left as it is (overwrite replaces it)", str(self.path))

    def _find_published(self) -> str | None:
        """The root, if an earlier run was killed after its folder had taken its place."""
        stated = next((record["published"] for record in self._journal.records if "published" in record), None)
        return stated if stated is not None and stated == _root_of(self.path) else None

    def _open_shards(self, stack: ExitStack) -> None:
        with storage_errors(self.partial, "make the folder"):
            if not self._journal.records and self.partial.exists():
                shutil.rmtree(self.partial)  # nothing vouches for what is in there
            self.partial.mkdir(exist_ok=True)
            for name in self._layout:
                if (self.partial / name).exists():  # finished but never published: its slots are as good as before
                    (self.partial / name).replace(self.partial / f"{name}.partial")
        for name in self._layout:
            writer = ContainerWriter(self.partial / name, self._layout[name], self._reserved[name], resume=bool(self._journal.records))
            self._shards[name] = stack.enter_context(writer)
        for record in self._journal.records:
            unit, hashes = record.get("unit"), record.get("hashes", {})
            if unit in self._units and all(self._shard(tensor).adopt(tensor, hashes[tensor]) for tensor in hashes):
                self._done.add(unit)

    def _metadata(self, shard: str, root: str, loss: float | None) -> dict[str, str]:
        modules = dict.fromkeys(self._unit_of[spec.name] for spec in self._layout[shard])
        part = replace(self.manifest.part(name for name in modules if name in self.manifest.modules), loss=loss)
        return {ROOT_KEY: root, MANIFEST_KEY: part.to_text(), "format": "pt"}

    def _shard(self, tensor: str) -> ContainerWriter:
        if tensor not in self._shard_of:
            raise FormatError(f"{self.path} has no slot for tensor {tensor!r}{near(tensor, self._shard_of)}")
        return self._shards[self._shard_of[tensor]]

    def pending(self) -> Iterator[str]:
        """Modules and plain tensors that are not on the disk yet, in the order of their names (numbers by value)."""
        if self._published is not None:
            return
        for unit in self._units:
            if unit not in self._done:
                yield unit

    def quantized(self, module: str) -> QuantizedTensor:
        """A quantized module that is on the disk already.

        Raises:
            FormatError: it is none, or is not there yet.
        """
        if module not in self.manifest.modules:
            raise FormatError(f"{self.path} has no quantized module {module!r}{near(module, self.manifest.modules)}")
        stated = self.manifest.modules[module]
        parts = {spec.name.removeprefix(f"{module}."): self._shard(spec.name).read(spec.name) for spec in self._units[module]}
        return QuantizedTensor.from_parts(stated.scheme, stated.shape, parts)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of weights when they are finished."""
        return sum(shard.size_bytes for shard in self._shards.values())

    def put_quantized(self, module: str, tensor: QuantizedTensor) -> None:
        """Write all arrays of a quantized module; when this returns they are on the disk and in the journal."""
        parts = tensor.parts()
        expected = {spec.name.removeprefix(f"{module}.") for spec in self._units.get(module, ())}
        if set(parts) != expected:
            raise FormatError(f"module {module!r}: expected the arrays {sorted(expected)}, got {sorted(parts)}")
        for suffix, array in parts.items():
            self.put(f"{module}.{suffix}", array)

    def put(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Write a whole tensor (BF16 as uint16)."""
        self._shard(name).write(name, array)
        self._record(name)

    def put_rows(self, name: str, begin: int, rows: np.ndarray[Any, Any]) -> None:
        """Write rows of a tensor, in order from row 0, for tensors too large to hold."""
        self._shard(name).write_rows(name, begin, rows)
        self._record(name)

    def copy(self, source: StoredModel, name: str) -> None:
        """Copy a tensor as it is, in pieces of at most 16 MiB (or one row)."""
        entry = source.entry(name)
        if not entry.shape:
            self.put(name, source.array(name))
            return
        rows = max(1, PIECE_BYTES * entry.shape[0] // entry.nbytes)
        for begin in range(0, entry.shape[0], rows):
            self.put_rows(name, begin, source.read_rows(name, begin, min(begin + rows, entry.shape[0])))

    def _record(self, tensor: str) -> None:
        unit = self._unit_of[tensor]
        hashes = {spec.name: self._shard(spec.name).hashes.get(spec.name) for spec in self._units[unit]}
        if all(hashes.values()):
            self._shard(tensor).sync()
            self._journal.append({"unit": unit, "hashes": hashes})
            self._done.add(unit)

    def finish(
        self,
        config: Mapping[str, Any],
        files: Iterable[Path] = (),
        *,
        loss: float | None = None,
        verify: bool = True,
        check: Callable[[Path], None] | None = None,
    ) -> str:
        """Seal all files, add `config.json`, the index and copies of `files`, check, and put the folder in its place.

        Args:
            config: the model's configuration, `quantization_config` included.
            files: what else belongs to the model (`side_files` of its source).
            loss: measured loss in nats a token, if there is one.
            verify: read every byte back against its hash before anything is published.
            check: looks at the whole folder, `path.partial`, before it is published; what it raises leaves it there, to be continued.

        Returns:
            The root hash that names the model.
        """
        if self._published is not None:
            self._clear()
            return self._published
        missing = list(self.pending())
        if missing:
            raise FormatError(f"{self.path}: {len(missing)} tensors were never written in full, first {missing[0]!r}")
        root = self.manifest.root({name: sha256 for shard in self._shards.values() for name, sha256 in shard.hashes.items()})
        for name, shard in self._shards.items():
            shard.finish(self._metadata(name, root, loss), verify=verify)
        self._add_files(config, files)
        with open_model(self.partial, allow_code=True) as model:
            if model.root != root:
                raise IntegrityError(f"{self.partial}: expected to read back model {root}, got {model.root}")
        if check is not None:
            check(self.partial)
        self._journal.append({"published": root})
        with storage_errors(self.path, "put the folder in place"):
            sync_tree(self.partial)
            if self.path.exists() and any(self.path.iterdir()):
                if not self._overwrite:
                    raise StorageError(errno.EEXIST, "something else took this name meanwhile; it is left as it is", str(self.path))
                replace_directory(self.partial, self.path)
            else:
                self.partial.rename(self.path)  # over an empty folder too
            sync_directory(self.path.parent)
        self._published = root
        self._clear()
        return root

    def _add_files(self, config: Mapping[str, Any], files: Iterable[Path]) -> None:
        for path in files:
            with storage_errors(path, "copy"), open_regular(path) as source, (self.partial / path.name).open("wb") as target:
                shutil.copyfileobj(source, target)
        write_json(self.partial / "config.json", dict(config))
        if len(self._layout) > 1:
            write_index(self.partial, self._shard_of, sum(spec.nbytes for specs in self._layout.values() for spec in specs))
        else:
            (self.partial / INDEX_NAME).unlink(missing_ok=True)

    def _clear(self) -> None:
        """After publication: the older folder, if one was replaced, and the journal."""
        self._journal.close()
        with storage_errors(self.partial, "remove"):
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything; unfinished work stays for the next run."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def seal_model(path: str | Path, manifest: Manifest, *, max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> str:
    """Give a folder that another library saved (arrays right, no seal) kbit's seal, in place and atomically; returns the root."""
    with open_model(path, require_seal=False) as source:
        modules = layout_units(manifest, ())
        packed = {spec.name for specs in modules.values() for spec in specs}
        plain = [TensorSpec(name, source.entry(name).dtype, source.entry(name).shape) for name in source.names() if name not in packed]
        with ModelWriter(path, manifest, plain, max_shard_bytes=max_shard_bytes, overwrite=True) as writer:
            for unit in list(writer.pending()):
                for name in [spec.name for spec in modules.get(unit, ())] or [unit]:
                    writer.copy(source, name)
            return writer.finish(source.config, side_files(source.path))


def _root_of(folder: Path) -> str | None:
    try:
        with open_model(folder, allow_code=True) as model:
            return model.root
    except KbitError:
        return None
