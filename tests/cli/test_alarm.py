"""The alarm of `kbit quantize`: a deliberately broken encoding is reported, a sound one is not, by a family's law and without one."""

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kbit.model.quantize as quantize_module
from kbit.allocate.band import expected_kl
from kbit.allocate.gate import Checked
from kbit.cli.alarm import SPREAD, describe, predicted_band
from kbit.core.scheme import Scheme
from kbit.store.manifest import Module
from kbit.study.book import LawBook
from kbit.study.fitting import fit_laws
from kbit.study.rows import Row

#: parameters of a family, its losses, and what four bits add, nats a token
FAMILY = {
    400_000: (4.316, 0.060),
    1_300_000: (4.013, 0.040),
    4_200_000: (3.600, 0.024),
    14_000_000: (3.40, 0.015),
    50_000_000: (3.25, 0.010),
}
MODULES = {"a": Module(Scheme.parse("int4:g64"), (64, 64))}


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for params, (loss, damage) in FAMILY.items():
        for method, bits, factor in (("none", 16, 0.0), ("nearest", 4, 1.0), ("nearest", 3, 5.0), ("nearest", 5, 0.25)):
            extra = {} if bits == 16 else {"scheme": f"int{bits}:g64"}
            bpw = 16.0 if bits == 16 else bits + 0.25
            rows.append(
                Row("quill", params, method, bits, 64, bpw, "books", 512, math.exp(loss + factor * damage), f"row {len(rows)}", extra)
            )
    path = tmp_path_factory.mktemp("law") / "quill.json"
    LawBook.of(fit_laws(rows, draws=2)).save(path)
    return path


@pytest.fixture(scope="module")
def quill() -> Path:
    return next(Path(str(files("kbit").joinpath("data"))).glob("quill-*"))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix of 28 is stored with scales of the wrong sign and size: too little for the check, which is wide."""
    true_encode = quantize_module.encode_unit

    def encode(stored: Any, unit: Any, **options: Any) -> Any:
        tensor = true_encode(stored, unit, **options)
        if "layers.0.self_attn.k_proj" not in str(unit.origin):
            return tensor
        return replace(tensor, scale=(tensor.scale.view(np.float16) * np.float16(-0.7)).view(np.uint16))

    monkeypatch.setattr(quantize_module, "encode_unit", encode)


def run(kbit: Callable, quill: Path, folder: Path, *options: object) -> tuple[dict, str]:
    called = kbit("quantize", quill, "--scheme", "int4:g64", "-o", folder, *options, "--json")
    assert called.code == 0, called.err
    return called.json, called.err


def test_a_sound_encoding_is_no_alarm(kbit: Callable, quill: Path, law: Path, tmp_path: Path) -> None:
    facts, said = run(kbit, quill, tmp_path / "out", "--law", law)
    band = facts["band"]
    assert not band["alarm"]
    assert band["by"] == f"the law of {law}"
    assert band["low"] < math.exp(facts["check"]["reference_loss"]) < band["perplexity"] < band["high"]
    assert band["high"] < 1.2 * band["perplexity"]
    assert "as expected" in said


def test_a_broken_encoding_is_an_alarm(kbit: Callable, quill: Path, law: Path, tmp_path: Path, broken: None) -> None:
    facts, said = run(kbit, quill, tmp_path / "out", "--law", law)
    assert facts["check"]["kl"] < facts["check"]["limit"]
    assert facts["band"]["alarm"]
    assert facts["band"]["perplexity"] > facts["band"]["high"]
    assert "LIKELY A BROKEN ENCODING" in said


def test_without_a_law_of_the_family_errors_of_the_codes_tell(kbit: Callable, quill: Path, tmp_path: Path, broken: None) -> None:
    (tmp_path / "model-of-nobody").symlink_to(quill)
    facts, _ = run(kbit, tmp_path / "model-of-nobody", tmp_path / "out")
    assert facts["band"]["by"] == "the errors of its codes"
    assert facts["band"]["alarm"]
    unchecked, _ = run(kbit, quill, tmp_path / "other", "--no-check")
    assert unchecked["band"] is None


def checked(kl: float, loss: float, tokens: int = 1_000_000) -> Checked:
    return Checked(kl=kl, limit=1.0, loss=loss, reference_loss=3.0, tokens=tokens)


def judged(found: Checked, modules: dict[str, Module] = MODULES, law: str | None = None, name: str = "somewhere") -> Any:
    return predicted_band(found, Path(name), modules, 4_000_000, law)


def test_the_band_by_errors_follows_the_bits_and_chance() -> None:
    for bits in (2, 3, 4):
        modules = {"a": Module(Scheme.parse(f"int{bits}:g64"), (64, 64))}
        most = SPREAD * expected_kl(modules)
        assert not judged(checked(1e-9, 3.0 + 0.99 * most), modules).alarm
        assert judged(checked(1e-9, 3.0 + 1.01 * most + 1e-3), modules).alarm
    assert judged(checked(0.01, 2.97), MODULES).alarm  # nor does a sound encoding gain so much
    few = judged(checked(0.01, 2.97, tokens=64))
    assert not few.alarm
    assert few.low < math.exp(2.97) < few.high


def test_a_known_family_is_told_by_the_name_of_the_folder() -> None:
    known = judged(checked(0.01, 3.05), name="opt-1.3b")
    assert known.by == "the law of published rows"
    assert judged(checked(0.01, 3.05), name="some-opt-1.3b").by == "the errors of its codes"


def test_a_mixture_lies_between_its_parts(law: Path) -> None:
    ends = []
    for mixed in (("int4:g64",), ("int4:g64", "int3:g64"), ("int3:g64",)):
        modules = {text: Module(Scheme.parse(text), (64, 64)) for text in mixed}
        ends.append(judged(checked(1e-9, 3.0), modules, str(law), "quill-x").high)
    assert ends[0] < ends[1] < ends[2]
    assert math.log(ends[1]) == pytest.approx((math.log(ends[0]) + math.log(ends[2])) / 2)


def test_nothing_measured_nothing_judged() -> None:
    assert judged(Checked(skipped="no tokenizer")) is None


def test_people_read_why() -> None:
    assert "LIKELY A BROKEN ENCODING: perplexity 33.1" in describe(judged(checked(0.3, 3.5)))
    assert "as expected" in describe(judged(checked(0.01, 3.01)))


def test_a_law_that_cannot_be_read_is_refused_before_anything_is_encoded(kbit: Callable, quill: Path, tmp_path: Path) -> None:
    (tmp_path / "law.json").write_text("{}")
    for name in ("law.json", "nowhere.json"):
        called = kbit("quantize", quill, "--scheme", "int4:g64", "-o", tmp_path / "out", "--law", tmp_path / name)
        assert called.code == 1
        assert name in called.err
        assert not (tmp_path / "out").exists()
