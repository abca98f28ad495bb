"""Importance matrices of llama.cpp, in both of its forms.

    binary   int32 entries; each: int32 length, name, int32 calls, int32 values, float32 sums; then int32 chunk, int32 length, file name
             a mean square is a sum over calls
    GGUF     tensors NAME.in_sum2 float32 [matrices, cols] and NAME.counts float32 [matrices, 1]
             a mean square is in_sum2 over counts

Names are llama.cpp's (``blk.0.attn_q.weight``); `module_entry` says which one is a module's. Its files permute rows of queries and keys,
never columns, so that the inputs are the same.
"""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import FormatError, LimitError

__all__ = ["is_imatrix", "module_entry", "read_imatrix"]

Means = tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]

_GGUF = b"GGUF"
_MOST_ENTRIES = 1 << 20
_MOST_NAME = 1 << 12
#: GGUF's value types of one number: struct code
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY, _F32 = 8, 9, 0
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
#: end of a module's name in a layer → llama.cpp's name
_PARTS = (
    (r"attn\w*\.q_proj", "attn_q"),
    (r"attn\w*\.k_proj", "attn_k"),
    (r"attn\w*\.v_proj", "attn_v"),
    (r"attn\w*\.(o_proj|out_proj|c_proj)", "attn_output"),
    (r"(c_attn|qkv_proj|query_key_value)", "attn_qkv"),
    (r"(gate_proj|gate_up_proj)", "ffn_gate"),
    (r"(up_proj|fc1|c_fc|dense_h_to_4h)", "ffn_up"),
    (r"(down_proj|fc2|mlp\.c_proj|dense_4h_to_h)", "ffn_down"),
)


def module_entry(module: str, *, stack: bool) -> str | None:
    """llama.cpp's name of a module's weight, None where there is none: ``model.layers.3.mlp.up_proj`` → ``blk.3.ffn_up.weight``."""
    if module.rpartition(".")[2] in ("lm_head", "embed_out"):
        return "output.weight"
    found = _LAYER.search(module)
    if found is None:
        return None
    part = next((name for pattern, name in _PARTS if re.search(rf"(^|[._]){pattern}$", found[2])), None)
    return None if part is None else f"blk.{found[1]}.{part}{'_exps' if stack else ''}.weight"


def is_imatrix(path: Path, data: bytes) -> bool:
    """Whether a file is one of llama.cpp's: a GGUF, or called as its tool calls its older files."""
    return data.startswith(_GGUF) or path.suffix in (".dat", ".imatrix")


def read_imatrix(data: bytes, source: str) -> Means:
    """(name → mean squares [values] or [matrices, cols], name → counts).

    Raises:
        FormatError: it is cut short, goes on after its end, or is something else; names the offset.
        LimitError: more entries, or longer names, than any model has.
    """
    reader = _Reader(data, source)
    return _read_gguf(reader) if data.startswith(_GGUF) else _read_binary(reader)


class _Reader:
    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.at = data, source, 0

    def take(self, size: int, what: str) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise FormatError(f"{self.source}: expected {size} bytes of {what} at offset {self.at}, got {len(self.data) - self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def count(self, code: str, what: str, most: int) -> int:
        value = int(self.number(code, what))
        if not 0 <= value <= most:
            raise LimitError(f"{self.source}: expected 0…{most} as {what} before offset {self.at}, got {value}")
        return value

    def text(self, code: str, what: str) -> str:
        raw = self.take(self.count(code, f"the length of {what}", _MOST_NAME), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.source}: expected {what} in UTF-8 before offset {self.at}") from None


def _read_binary(reader: _Reader) -> Means:
    means: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, NDArray[np.int64]] = {}
    for _ in range(reader.count("i", "number of entries", _MOST_ENTRIES)):
        name = reader.text("i", "a name")
        calls, values = reader.number("i", "calls"), reader.number("i", "number of values")
        if calls < 1 or values < 1 or name in means:
            raise FormatError(f"{reader.source}: {name}: expected a new entry with calls and values, got {calls} calls, {values} values")
        means[name] = (np.frombuffer(reader.take(4 * values, f"values of {name}"), "<f4") / np.float32(calls)).astype(np.float32)
        rows[name] = np.array([calls], np.int64)
    if reader.at < len(reader.data):
        reader.number("i", "the last chunk")
        if reader.at < len(reader.data):
            reader.text("i", "the name of the text")
    if reader.at != len(reader.data) or not means:
        raise FormatError(
            f"{reader.source}: expected an imatrix with entries that ends at offset {reader.at}, got {len(reader.data)} bytes"
        )
    return means, rows


def _read_gguf(reader: _Reader) -> Means:
    reader.take(len(_GGUF), "magic")
    version = reader.number("I", "version")
    if version not in (2, 3):
        raise FormatError(f"{reader.source}: expected GGUF version 2 or 3, got {version}")
    tensors, pairs = (reader.count("Q", f"number of {what}", _MOST_ENTRIES) for what in ("tensors", "key-value pairs"))
    facts = {reader.text("Q", "a key"): _value(reader, reader.number("I", "a type")) for _ in range(pairs)}
    if facts.get("general.type") != "imatrix":
        raise FormatError(f"{reader.source}: expected a GGUF of general.type 'imatrix', got {facts.get('general.type')!r}")
    places = dict(_tensor(reader) for _ in range(tensors))
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16:
        raise FormatError(f"{reader.source}: expected an alignment of 1…65536, got {alignment!r}")
    base = -(-reader.at // alignment) * alignment
    arrays = {name: _array(reader, base + offset, shape, name) for name, (offset, shape) in places.items()}
    means: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, NDArray[np.int64]] = {}
    for name, sums in arrays.items():
        if not name.endswith(".in_sum2"):
            continue
        entry = name.removesuffix(".in_sum2")
        counts = arrays.get(f"{entry}.counts")
        if counts is None or sums.ndim > 2 or counts.size != sums.size // sums.shape[-1]:
            raise FormatError(f"{reader.source}: {entry}: expected counts for each of its matrices")
        flat = counts.reshape(-1, 1)
        divided = sums.reshape(len(flat), -1) / np.maximum(flat, 1)
        means[entry] = divided.astype(np.float32).reshape(-1) if len(flat) == 1 else divided.astype(np.float32)
        rows[entry] = flat[:, 0].astype(np.int64)
    if not means:
        raise FormatError(f"{reader.source}: expected tensors called ….in_sum2, got {', '.join(list(arrays)[:3]) or 'none'}")
    return means, rows


def _value(reader: _Reader, kind: int) -> Any:
    if kind in _NUMBERS:
        return reader.number(_NUMBERS[kind], "a value")
    if kind == _TEXT:
        return reader.text("Q", "a value")
    if kind == _ARRAY:
        inner, count = reader.number("I", "a type"), reader.count("Q", "length of an array", _MOST_ENTRIES)
        if inner == _ARRAY:
            raise FormatError(f"{reader.source}: expected an array of numbers or texts before offset {reader.at}, got one of arrays")
        return [_value(reader, inner) for _ in range(count)]
    raise FormatError(f"{reader.source}: expected a value type of GGUF before offset {reader.at}, got {kind}")


def _tensor(reader: _Reader) -> tuple[str, tuple[int, tuple[int, ...]]]:
    name = reader.text("Q", "a tensor's name")
    shape = tuple(reader.count("Q", f"a size of {name}", 1 << 40) for _ in range(reader.count("I", f"dimensions of {name}", 4)))
    kind, offset = reader.number("I", f"type of {name}"), reader.number("Q", f"offset of {name}")
    if kind != _F32 or not shape or 0 in shape:
        raise FormatError(f"{reader.source}: {name}: expected float32 values, got type {kind} of shape {list(shape)}")
    return name, (offset, shape[::-1])


def _array(reader: _Reader, at: int, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    size = 4
    for one in shape:
        size *= one
    if at + size > len(reader.data):
        raise FormatError(f"{reader.source}: {name}: expected {size} bytes at offset {at}, got {max(0, len(reader.data) - at)}")
    values: NDArray[np.float32] = np.frombuffer(reader.data, "<f4", size // 4, at).reshape(shape)
    return values
