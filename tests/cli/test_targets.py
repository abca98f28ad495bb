"""`kbit quantize` with a target, a quality or a plan file."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from kbit.allocate import ladder
from kbit.cli.reference import KEYS
from kbit.cli.targets import one_way, read_plan, step_ms
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan

SHORT = ("kmeans2:g64+imp", "int4:g64+imp+gptq", "int8:g64")


@pytest.fixture
def short_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    for goal in ("ONE", "SIZE", "TIME"):
        monkeypatch.setattr(ladder, goal, SHORT)
        monkeypatch.setattr(ladder, f"{goal}_PLAIN", ("int2:g64:mse", "int4:g64:mse"))


@pytest.fixture(scope="module")
def book() -> Path:
    return sorted(Path(str(files("kbit").joinpath("data", "books"))).glob("*.txt"))[0]


def test_a_target_shares_bits_out(
    kbit: Callable, tiny_model: Path, tmp_path: Path, book: Path, short_ladder: None, capsys: pytest.CaptureFixture
) -> None:
    options = ["--calibration", book, "--calibration-tokens", 512]
    called = kbit("quantize", tiny_model, "--target-bpw", 5.5, "-o", tmp_path / "out", *options, "--json")
    assert called.code == 0, called.err
    facts = called.json
    assert set(KEYS["quantize"].split()) == set(facts)
    assert 4.5 < facts["bpw"] <= 5.5
    assert facts["bpw"] == pytest.approx(facts["allocation"]["bpw"])
    assert len(facts["allocation"]["chosen"]) == 14
    assert len(set(facts["allocation"]["chosen"].values())) > 1
    assert facts["allocation"]["sensitivity"] == "measured"
    assert facts["check"]["kl"] <= facts["check"]["limit"]
    assert "estimate for quality best" in called.err
    assert "model.layers.0.mlp.down_proj" in called.err  # the plan is said to people
    assert not (tmp_path / "out.sensitivity").exists()

    shown = kbit("show", tmp_path / "out", "--errors", "--json").json
    schemes = {tensor["name"]: tensor["scheme"] for tensor in shown["tensors"]}
    assert {name: schemes[name] for name in facts["allocation"]["chosen"]} == facts["allocation"]["chosen"]
    losses = [tensor["kl"] for tensor in shown["tensors"] if tensor["name"] in facts["allocation"]["chosen"]]
    assert sum(losses) == pytest.approx(facts["allocation"]["predicted_kl"])

    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(facts["allocation"]))
    again = kbit("quantize", tiny_model, "--plan", plan, "-o", tmp_path / "again", *options, "--json").json
    assert again["root"] == facts["root"]


def test_a_size_takes_embeddings_in_and_losses_are_used_again(kbit: Callable, tiny_model: Path, tmp_path: Path, short_ladder: None) -> None:
    options = ["--sensitivity", tmp_path / "losses", "--json"]
    first = kbit("quantize", tiny_model, "--target-size", "200kB", "-o", tmp_path / "a", *options)
    assert first.code == 0, first.err
    assert first.json["file_bytes"] <= 200_000
    assert "model.embed_tokens" in first.json["allocation"]["chosen"]
    lines = (tmp_path / "losses").read_text()
    second = kbit("quantize", tiny_model, "--target-size", "180kB", "-o", tmp_path / "b", *options).json
    assert second["file_bytes"] <= 180_000
    assert (tmp_path / "losses").read_text() == lines


@pytest.mark.parametrize(("quality", "scheme"), [("fast", "int4:g64:mse"), ("good", "int4:g64+imp+gptq")])
def test_a_quality_without_sensitivity_is_one_scheme(
    kbit: Callable, tiny_model: Path, tmp_path: Path, book: Path, short_ladder: None, quality: str, scheme: str
) -> None:
    options = ["--calibration", book, "--calibration-tokens", 512, "--json"]
    facts = kbit("quantize", tiny_model, "--quality", quality, "-o", tmp_path / "out", *options).json
    assert facts["scheme"] == scheme
    assert facts["allocation"]["sensitivity"] is None
    assert (facts["calibration"] is None) == (quality == "fast")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "expected one of --scheme"),
        (["--scheme", "nf4", "--target-bpw", "4"], "--scheme and --target-bpw"),
        (["--scheme", "nf4", "--quality", "best"], "expected a target with them"),
        (["--quality", "goood"], "did you mean 'good'"),
        (["--quality", "good"], "--calibration FILE"),
        (["--target-ms", "0"], "--target-ms above 0"),
        (["--quality", "fast", "--target-ms", "5"], "quality 'best'"),
        (["--quality", "fast", "--target-bpw", "0.5"], "at least"),
        (["--target-bpw", "40"], "0…16 bits"),
        (["--plan", "nothing.json"], "nothing.json"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    kbit: Callable, tiny_model: Path, tmp_path: Path, short_ladder: None, options: list[str], words: str
) -> None:
    called = kbit("quantize", tiny_model, "-o", tmp_path / "out", *options)
    assert called.code == 1
    assert words in called.err
    assert not (tmp_path / "out").exists()


def test_a_check_can_be_left_out(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    facts = kbit("quantize", tiny_model, "--scheme", "int1:g64", "-o", tmp_path / "out", "--no-check", "--json").json
    assert facts["check"] is None


def test_a_plan_file_is_a_plan_or_a_result(tmp_path: Path) -> None:
    plan = Plan.of("nf4:g64")
    for value in (plan.to_json(), {"plan": plan.to_json(), "bpw": 4.25}):
        (tmp_path / "plan.json").write_text(json.dumps(value))
        assert read_plan(str(tmp_path / "plan.json")) == plan
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(SchemeError, match="JSON object"):
        read_plan(str(tmp_path / "plan.json"))


def test_times_and_ways() -> None:
    assert step_ms(5.0, None) == 5
    assert step_ms(None, 50.0) == 20
    assert step_ms(None, None) is None
    one_way({"a": None}, "b")
    one_way({"a": 1}, None)
