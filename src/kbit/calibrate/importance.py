"""How much each input of each weight matters, on its own: gathered once, kept in a file, used by ``+imp`` without running a text again.

A file is safetensors. For each module its mean square of every input, ``NAME`` float32 [cols], or [experts, cols] for a stack, and how many
input rows that is the mean of, ``NAME.rows`` int64 [1] or [experts]; metadata hold format, digest of the tokens, seed and number of tokens.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import nn

from kbit.calibrate.arithmetic import Arithmetic
from kbit.calibrate.imatrix import is_imatrix, module_entry, read_imatrix
from kbit.calibrate.observe import observed
from kbit.calibrate.text import CalibrationWindows
from kbit.calibrate.walk import LayerWalk
from kbit.core.digest import digest_bytes
from kbit.core.errors import FormatError, ModelError, NumericsError, ShapeError
from kbit.core.files import atomic_write, open_regular, storage_errors
from kbit.nn.targets import Target

__all__ = ["Importance", "gather_importance", "read_importance"]

FORMAT = "kbit-importance-1"
_ROWS = ".rows"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """Mean squares of inputs by module.

    Attributes:
        means: name → float32 [cols] or [experts, cols], finite and not negative.
        rows: name → input rows seen, int64 [1] or [experts].
        digest: of the tokens, or of another tool's file.
        seed: what drew the tokens.
        tokens: their number; 0 where it is not known.
        foreign: names are those of llama.cpp.
    """

    means: dict[str, Float32]
    rows: dict[str, NDArray[np.int64]]
    digest: str
    seed: int = 0
    tokens: int = 0
    foreign: bool = False

    def of(self, name: str, shape: tuple[int, ...]) -> Float32:
        """Importance for the weight `name` of `shape`, [cols] or [experts, cols]; ones where no input was seen or all were 0.

        Raises:
            ModelError: there is none for it.
            ShapeError: it is of another shape.
        """
        key = module_entry(name, stack=len(shape) == 3) if self.foreign else name
        if key is None or key not in self.means:
            known = ", ".join(sorted(self.means)[:3])  # a file gives them in any order
            raise ModelError(
                f"{name}: the importance file has nothing for it{f' ({key})' if self.foreign and key else ''}; it has {known}, …"
            )
        expected = shape[-1:] if len(shape) == 2 else (shape[0], shape[-1])
        means = self.means[key]
        if self.foreign and means.size == np.prod(expected):
            means = means.reshape(expected)
        if means.shape != expected:
            raise ShapeError(f"{name}: expected importance {list(expected)}, got {list(means.shape)}: another model's?")
        return np.where(means.any(-1, keepdims=True), means, np.float32(1))

    def save(self, path: str | Path) -> None:
        """Write the file, atomically."""
        tensors: dict[str, NDArray[Any]] = dict(self.means) | {f"{name}{_ROWS}": rows for name, rows in self.rows.items()}
        facts = {"format": FORMAT, "digest": self.digest, "seed": str(self.seed), "tokens": str(self.tokens)}
        with atomic_write(path) as file:
            file.write(_serialized(tensors, facts))


def read_importance(path: str | Path) -> Importance:
    """An importance file of kbit, or an imatrix file of llama.cpp (the older binary form, or GGUF).

    Raises:
        StorageError: it cannot be read.
        FormatError: it is none of these.
        NumericsError: it holds a value that is negative or not finite.
    """
    path = Path(path)
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read()
    if is_imatrix(path, data):
        means, rows = read_imatrix(data, str(path))
        found = Importance(means, rows, digest_bytes(data), foreign=True)
    else:
        found = _read_own(data, str(path))
    for name, values in found.means.items():
        if not (np.isfinite(values) & (values >= 0)).all():
            raise NumericsError(f"{path}: {name}: expected importance that is finite and not negative")
    return found


def _serialized(tensors: dict[str, NDArray[Any]], facts: dict[str, str]) -> bytes:
    """The same bytes for the same contents, which safetensors' own writer does not promise of metadata."""
    header: dict[str, Any] = {"__metadata__": facts}
    data = bytearray()
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):  # so that all are aligned
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        dtype = "I64" if array.dtype.kind == "i" else "F32"
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(data)


def _read_own(data: bytes, source: str) -> Importance:
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"{source}: expected an importance file (safetensors, or llama.cpp's imatrix): {error}") from None
    facts = header.get("__metadata__", {})
    if facts.get("format") != FORMAT:
        raise FormatError(f"{source}: expected the format {FORMAT!r} in its metadata, got {facts.get('format')!r}")
    means = {name: values for name, values in tensors.items() if not name.endswith(_ROWS)}
    rows = {name.removesuffix(_ROWS): values for name, values in tensors.items() if name.endswith(_ROWS)}
    for name, values in means.items():
        count = rows.get(name)
        if values.dtype != np.float32 or values.ndim not in (1, 2) or not values.size:
            raise FormatError(f"{source}: {name}: expected float32 [cols] or [experts, cols], got {values.dtype} {list(values.shape)}")
        if count is None or count.dtype != np.int64 or count.shape != (1 if values.ndim == 1 else len(values),):
            raise FormatError(f"{source}: {name}{_ROWS}: expected int64 counts, one for each matrix")
    digest, seed, tokens = (facts.get(key, "") for key in ("digest", "seed", "tokens"))
    if not (seed.isdigit() and tokens.isdigit() and digest):
        raise FormatError(f"{source}: expected digest, seed and number of tokens in its metadata, got {facts}")
    return Importance(means, rows, digest, int(seed), int(tokens))


def gather_importance(
    model: nn.Module,
    targets: Sequence[Target],
    windows: CalibrationWindows,
    *,
    arithmetic: Arithmetic = "float32",
    done: Callable[[int, int], None] = lambda *_: None,
) -> Importance:
    """Importance of the inputs of `targets` in `model`, which stays as it is: all weights see what the original model computes.

    Args:
        model: a transformers model with one list of layers, in main memory.
        targets: linear layers and experts, with any scheme that has ``+imp``.
        windows: tokens to run.
        arithmetic: in which the model runs.
        done: called with (layers done, layers).

    Raises:
        ModelError: a model that cannot be walked through.
        NumericsError: NaN or Inf among inputs.
    """
    means: dict[str, Float32] = {}
    rows: dict[str, NDArray[np.int64]] = {}

    def take(members: list[Target], run: Callable[[], None]) -> None:
        with observed(model, members) as found:
            run()
        for target in members:
            moments = found.of(target)
            values = np.stack([one.mean_square for one in moments])
            if not np.isfinite(values).all():
                raise NumericsError(f"{target.name}: expected finite inputs from the calibration text, got NaN or Inf")
            means[target.name] = values if target.kind == "experts" else values[0]
            rows[target.name] = np.array([one.rows for one in moments], np.int64)

    with LayerWalk(model, torch.from_numpy(windows.ids), arithmetic) as walk:
        walk.start()
        for index in range(len(walk.layers)):
            walk.open(index)
            inside = [target for target in targets if target.name.startswith(f"{walk.name}.{index}.")]
            take(inside, lambda: walk.run(index, keep=True))  # noqa: B023 (called at once)
            walk.close(index)
            done(index + 1, len(walk.layers))
        last = [target for target in targets if target.name not in means]
        if last:
            take(last, walk.finish)
    return Importance(means, rows, windows.digest, windows.seed, windows.tokens)
