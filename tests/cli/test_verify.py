"""`kbit verify`: a whole model passes, a single changed bit does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

from kbit.cli.reference import KEYS
from kbit.store.folder import open_model


def test_a_whole_model_passes(kbit: Callable, packed_model: Path) -> None:
    called = kbit("verify", packed_model, "--json")
    assert called.code == 0
    assert set(called.json) == set(KEYS["verify"].split())
    with open_model(packed_model) as stored:
        assert called.json["root"] == stored.root
        assert called.json["chunks"] == len(stored.names())
    assert called.json["ok"] is True
    assert "ok: " in kbit("verify", packed_model).out
    assert kbit("verify", packed_model / "model.safetensors").code == 0


def test_a_changed_bit_is_found_and_said_in_both_forms(kbit: Callable, packed_model: Path, tmp_path: Path) -> None:
    shutil.copytree(packed_model, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    called = kbit("verify", tmp_path / "copy", "--json")
    assert called.code == 1
    assert called.json["ok"] is False
    assert "expected sha256" in called.json["error"]
    assert called.err.startswith("kbit: ")
    assert len(called.err.splitlines()) == 1


def test_an_ordinary_checkpoint_has_no_hashes(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("verify", tiny_model, "--json")
    assert (called.code, called.json["root"], called.json["chunks"]) == (0, None, 0)
    assert "not sealed by kbit" in called.err


def test_nothing_there(kbit: Callable, tmp_path: Path) -> None:
    assert kbit("verify", tmp_path / "nowhere").code == 1
