"""Importance files: what was gathered comes back, llama.cpp's two forms are read, and what is broken is refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationWindows
from kbit.calibrate.imatrix import module_entry
from kbit.calibrate.importance import Importance, gather_importance, read_importance
from kbit.core.errors import FormatError, KbitError, LimitError, ModelError, NumericsError, ShapeError
from kbit.core.scheme import Scheme
from kbit.nn.targets import find_targets

Make = Callable[[str], nn.Module]


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_mean_squares_of_the_original_model_come_back(kind: str, make_model: Make, ids: torch.Tensor, tmp_path: Path) -> None:
    model, windows = make_model(kind), CalibrationWindows(ids.numpy(), seed=4)
    targets = [target for target in find_targets(model, lambda *_: Scheme.parse("int8:g16+imp"))[0] if target.kind != "embedding"]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    gather_importance(model, targets, windows).save(tmp_path / "i.safetensors")
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    found = read_importance(tmp_path / "i.safetensors")
    assert (found.digest, found.seed, found.tokens) == (windows.digest, 4, ids.numel())
    assert set(found.means) == {target.name for target in targets}
    for name in ("model.layers.1.self_attn.o_proj", "lm_head") if kind == "llama" else ("model.layers.1.self_attn.v_proj",):
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model(input_ids=ids)
        handle.remove()
        expected = seen[0].reshape(-1, 64).square().mean(0).numpy()
        np.testing.assert_allclose(found.of(name, (10, 64)), expected, rtol=1e-4)
        assert found.rows[name].tolist() == [ids.numel()]
    if kind == "mixtral":
        assert found.rows["model.layers.0.mlp.experts.gate_up_proj"].sum() == 2 * ids.numel()
    with pytest.raises(ModelError) as caught:
        found.of("nowhere", (10, 64))
    first = ", ".join(sorted(target.name for target in targets)[:3])
    assert str(caught.value) == f"nowhere: the importance file has nothing for it; it has {first}, …"
    with pytest.raises(ShapeError, match=r"expected importance \[63\], got \[64\]: another model's"):
        found.of("model.layers.0.self_attn.q_proj", (10, 63))


def test_what_saw_nothing_prefers_nothing() -> None:
    importance = Importance({"a": np.zeros(3, np.float32), "b": np.array([[0, 0], [1, 0]], np.float32)}, {}, "x")
    assert importance.of("a", (5, 3)).tolist() == [1, 1, 1]
    assert importance.of("b", (2, 5, 2)).tolist() == [[1, 1], [1, 0]]


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    means = {name: np.arange(1, 4, dtype=np.float32) for name in "cab"}
    for path in ("one", "other"):
        Importance(means, {name: np.array([2], np.int64) for name in means}, "d", 1, 2).save(tmp_path / path)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


SUMS = {"blk.0.attn_q.weight": np.array([2, 4, 6, 8], np.float32), "blk.0.ffn_down_exps.weight": np.arange(1, 9, dtype=np.float32)}


def binary(sums: dict[str, np.ndarray], calls: int = 2, end: bytes = b"") -> bytes:
    data = struct.pack("<i", len(sums))
    for name, values in sums.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes()
    return data + end


def gguf(sums: dict[str, np.ndarray], counts: dict[str, np.ndarray], kind: str = "imatrix") -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    tensors: list[tuple[str, np.ndarray]] = []
    for name, values in sums.items():
        tensors += [(f"{name}.in_sum2", values), (f"{name}.counts", counts[name])]
    facts = text("general.type") + struct.pack("<I", 8) + text(kind)
    facts += text("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 2) + text("a.txt") + text("b.txt")
    facts += text("imatrix.chunk_count") + struct.pack("<II", 4, 7)
    head, body = b"", b""
    for name, values in tensors:
        head += text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        head += struct.pack("<IQ", 0, len(body))
        body += values.astype("<f4").tobytes().ljust(-(-values.nbytes // 32) * 32, b"\0")
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3) + facts + head
    return data.ljust(-(-len(data) // 32) * 32, b"\0") + body


def test_both_forms_of_llama_cpp(tmp_path: Path) -> None:
    (tmp_path / "old.dat").write_bytes(binary(SUMS, end=struct.pack("<ii", 12, 4) + b"book"))
    (tmp_path / "older.dat").write_bytes(binary(SUMS))
    stacked = {name: values.reshape(-1, 4) if "exps" in name else values for name, values in SUMS.items()}
    counts = {"blk.0.attn_q.weight": np.array([[2]], np.float32), "blk.0.ffn_down_exps.weight": np.array([[2], [0]], np.float32)}
    (tmp_path / "new.gguf").write_bytes(gguf(stacked, counts))
    for name in ("old.dat", "older.dat", "new.gguf"):
        found = read_importance(tmp_path / name)
        assert found.of("model.layers.0.self_attn.q_proj", (8, 4)).tolist() == [1, 2, 3, 4]
        stack = found.of("model.layers.0.mlp.experts.down_proj", (2, 8, 4))
        assert stack[0].tolist() == [0.5, 1, 1.5, 2]
        assert stack[1].tolist() == ([5, 6, 7, 8] if name == "new.gguf" else [2.5, 3, 3.5, 4])
        with pytest.raises(ModelError, match=r"nothing for it \(blk.1.ffn_up.weight\)"):
            found.of("model.layers.1.mlp.up_proj", (8, 4))
    assert read_importance(tmp_path / "old.dat").digest != read_importance(tmp_path / "older.dat").digest


def test_names() -> None:
    names = {
        "lm_head": "output.weight",
        "model.layers.11.mlp.gate_proj": "blk.11.ffn_gate.weight",
        "transformer.h.2.attn.c_proj": "blk.2.attn_output.weight",
        "transformer.h.2.mlp.c_proj": "blk.2.ffn_down.weight",
        "transformer.h.2.attn.c_attn": "blk.2.attn_qkv.weight",
        "gpt_neox.layers.3.mlp.dense_h_to_4h": "blk.3.ffn_up.weight",
        "model.layers.0.router": None,
        "classifier": None,
    }
    assert {name: module_entry(name, stack=False) for name in names} == names
    assert module_entry("model.layers.0.mlp.experts.gate_up_proj", stack=True) == "blk.0.ffn_gate_exps.weight"


@pytest.mark.parametrize("form", ["dat", "gguf"])
def test_cut_short_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    counts = {name: np.array([[2]], np.float32) for name in SUMS}
    whole = binary(SUMS) if form == "dat" else gguf(SUMS, counts)
    for size in range(len(whole) - (0 if form == "dat" else 31)):  # the last value's padding may be missing
        path = tmp_path / f"cut.{form}"
        path.write_bytes(whole[:size])
        with pytest.raises((FormatError, LimitError)):
            read_importance(path)


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("a.safetensors", b"", FormatError, "expected an importance file"),
        ("a.safetensors", b"\x08" + b"\0" * 7 + b"{}      ", FormatError, "expected the format 'kbit-importance-1'"),
        ("a.dat", struct.pack("<i", -1), LimitError, "expected 0…1048576 as number of entries"),
        ("a.dat", struct.pack("<ii", 1, 1 << 30), LimitError, "length of a name"),
        ("a.dat", binary(SUMS, calls=0), FormatError, "got 0 calls"),
        ("a.dat", binary(SUMS, end=b"\1\0\0\0\0\0\0\0x"), FormatError, "ends at offset"),
        ("a.dat", struct.pack("<i", 0), FormatError, "expected an imatrix with entries"),
        ("a.dat", binary({"x": np.array([np.nan], np.float32)}), NumericsError, "x: expected importance that is finite"),
        ("a.dat", binary({"x": np.array([-1], np.float32)}), NumericsError, "x: expected importance that is finite"),
        ("a", gguf({}, {}), FormatError, "expected tensors called"),
        ("a", gguf(SUMS, {name: np.ones((1, 1), np.float32) for name in SUMS}, kind="model"), FormatError, "got 'model'"),
        ("a", gguf(SUMS, {name: np.ones((3, 1), np.float32) for name in SUMS}), FormatError, "expected counts for each"),
        ("a", b"GGUF\x09\0\0\0", FormatError, "expected GGUF version 2 or 3, got 9"),
    ],
)
def test_what_is_no_importance_file(name: str, data: bytes, error: type[KbitError], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        read_importance(tmp_path / name)
