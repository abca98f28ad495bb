from dataclasses import replace

import pytest

from kbit.core.scheme import Scheme
from kbit.study.cell import QualityCell, SpeedCell, method_text, speed_scheme

CELL = QualityCell(
    family="f",
    model="m",
    params=10,
    model_sha256="aa",
    path="/somewhere",
    scheme="int3:g64+gptq",
    embedding="16",
    head="16",
    dataset="d",
    context=32,
    windows=2,
    text_sha256="bb",
    text_paths=("/text",),
    calibration_paths=("/calibration",),
    calibration_sha256="cc",
    calibration_tokens=64,
    seed=0,
)
SPEED = SpeedCell("f", "m", 10, "aa", "/somewhere", "int3:g64", "16", "16", 1, 8, 4, 2, "cpu")


def test_places_do_not_matter() -> None:
    assert replace(CELL, path="/else", text_paths=("/t",), calibration_paths=("/c",), task_folder="/x").key == CELL.key
    assert replace(SPEED, path="/else").key == SPEED.key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("family", "g"),
        ("model", "n"),
        ("params", 11),
        ("model_sha256", "ab"),
        ("scheme", "int3:g128+gptq"),
        ("embedding", "int8:g64"),
        ("head", "int8:g64"),
        ("dataset", "e"),
        ("context", 33),
        ("windows", 3),
        ("text_sha256", "bc"),
        ("calibration_sha256", "cd"),
        ("calibration_tokens", 65),
        ("seed", 1),
        ("tasks", ("piqa",)),
        ("task_limit", 5),
        ("task_sha256", "dd"),
    ],
)
def test_contents_do(field: str, value: object) -> None:
    assert replace(CELL, **{field: value}).key != CELL.key


def test_kbits_version_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CELL.key
    monkeypatch.setattr("kbit.study.cell.package_version", lambda: "99")
    assert CELL.key != before


@pytest.mark.parametrize(("field", "value"), [("threads", 2), ("machine", "other"), ("repeats", 3), ("scheme", "int4:g64")])
def test_speeds_belong_to_a_machine(field: str, value: object) -> None:
    assert replace(SPEED, **{field: value}).key != SPEED.key


@pytest.mark.parametrize(
    ("text", "method", "layout"),
    [
        ("16", "none", "16"),
        ("int3:g64", "nearest", "int3:g64"),
        ("int3:g64:asym:mse", "mse", "int3:g64:asym"),
        ("nf3:g-1:dq8+imp+gptq", "imp+gptq", "nf3:g-1:dq8"),
        ("float4e2:g32+gptq", "gptq", "float4e2:g32"),
    ],
)
def test_names_of_method_and_layout(text: str, method: str, layout: str) -> None:
    scheme = Scheme.parse(text)
    assert method_text(scheme) == method
    assert speed_scheme(scheme) == layout


def test_columns_say_what_laws_need() -> None:
    columns = CELL.columns
    assert {name: columns[name] for name in ("method", "bits", "group_size", "grid")} == {
        "method": "gptq",
        "bits": 3,
        "group_size": 64,
        "grid": "int",
    }
    original = replace(CELL, scheme="16").columns
    assert (original["method"], original["bits"], original["group_size"], original["grid"]) == ("none", 16, -1, "none")
