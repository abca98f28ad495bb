"""`kbit show`: every byte and weight is accounted for, and errors are those of the weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit.cli.reference import KEYS
from kbit.store.folder import open_model

PARAMETERS = 4096 * 64 + 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64


def test_lists_every_tensor_once_with_all_its_bytes(kbit: Callable, packed_model: Path) -> None:
    facts = kbit("show", packed_model, "--json").json
    assert set(facts) == set(KEYS["show"].split())
    assert facts["weights"] == PARAMETERS
    with open_model(packed_model) as stored:
        headers = sum(container.header_bytes for container in stored.containers.values())
    assert sum(tensor["bytes"] for tensor in facts["tensors"]) + headers == facts["file_bytes"]
    assert facts["bpw_file"] == 8 * facts["file_bytes"] / PARAMETERS
    assert sum(total["bytes"] for total in facts["totals"].values()) == sum(tensor["bytes"] for tensor in facts["tensors"])
    by_name = {tensor["name"]: tensor for tensor in facts["tensors"]}
    assert by_name["model.layers.0.mlp.up_proj"] == {
        "name": "model.layers.0.mlp.up_proj",
        "kind": "linear",
        "shape": [128, 64],
        "scheme": "nf4:g32",
        "weights": 8192,
        "bytes": 8192 // 2 + 2 * 8192 // 32,
        "bpw": 4.5,
        "error": None,
        "sqnr_db": None,
        "kurtosis": None,
        "largest": None,
        "kl": None,
    }
    assert facts["ties"] == {"lm_head": "model.embed_tokens"}


def test_errors_are_relative_distances_from_the_original(kbit: Callable, packed_model: Path, tiny_model: Path) -> None:
    torch_file = pytest.importorskip("safetensors.torch")
    facts = kbit("show", packed_model, "--errors", "--against", tiny_model, "--json").json
    weights = torch_file.load_file(tiny_model / "model.safetensors")
    quantized = [tensor for tensor in facts["tensors"] if tensor["kind"] != "tensor"]
    with open_model(packed_model) as stored:
        for tensor in quantized:
            weight = weights[tensor["name"] + ".weight"].float().numpy().astype(np.float64)
            restored = stored.quantized(tensor["name"]).dequantize()
            assert tensor["error"] == pytest.approx(np.linalg.norm(weight - restored) / np.linalg.norm(weight), rel=1e-6)
            assert 0 < tensor["error"] < (0.15 if tensor["scheme"] == "nf4:g32" else 0.01)


def test_people_read_a_table(kbit: Callable, packed_model: Path, tiny_model: Path) -> None:
    called = kbit("show", packed_model, "--against", tiny_model)
    lines = called.out.splitlines()
    assert lines[0].split() == ["name", "kind", "scheme", "shape", "bpw", "bytes", "error", "SQNR", "dB", "kurtosis", "largest", "σ"]
    assert any(line.startswith("whole file") for line in lines)
    assert "lm_head is model.embed_tokens (stored once)" in lines


def test_an_ordinary_model_is_shown_too(kbit: Callable, tiny_model: Path) -> None:
    facts = kbit("show", tiny_model, "--json").json
    assert {tensor["scheme"] for tensor in facts["tensors"]} == {"bf16"}
    assert facts["weights"] == PARAMETERS
    assert facts["root"] is None


def test_a_folder_without_a_model_is_one_line(kbit: Callable, tmp_path: Path) -> None:
    called = kbit("show", tmp_path)
    assert called.code == 1
    assert len(called.err.splitlines()) == 1


def test_says_which_rotations_are_folded(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    for fold, folded in (("all", 2), ("none", 0)):
        folder = tmp_path / fold
        kbit("quantize", tiny_model, "--scheme", "int8:g32+rotate", "-o", folder, "--fold", fold, "--no-check")
        facts = kbit("show", folder, "--against", tiny_model, "--json").json
        assert facts["rotations"] == {"folded": folded, "online": 14 - folded}
        texts = {tensor["name"]: tensor["scheme"] for tensor in facts["tensors"]}
        assert texts["model.layers.1.self_attn.o_proj"] == ("int8:g32+folded" if folded else "int8:g32+rotate")
        assert max(tensor["error"] for tensor in facts["tensors"] if tensor["kind"] != "tensor") < 0.01
        line = f"rotation folded into the weights around for {folded} modules, online for {14 - folded}"
        assert line in kbit("show", folder).out.splitlines()
