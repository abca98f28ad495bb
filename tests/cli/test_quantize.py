"""`kbit quantize`: folders, plans from options, sizes, and what goes wrong."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from kbit.cli.plan_options import byte_count, make_plan
from kbit.cli.reference import KEYS
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.store.folder import open_model


def test_writes_a_model_and_says_what_it_is(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    called = kbit("quantize", tiny_model, "--scheme", "int3:g64", "-o", tmp_path / "out", "--json")
    assert called.code == 0
    facts = called.json
    assert set(KEYS["quantize"].split()) == set(facts)
    assert facts["scheme"] == "int3:g64"
    assert facts["bpw"] == pytest.approx(3.25)
    assert facts["file_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert sum(facts["parts"].values()) == 8 * facts["file_bytes"]
    assert "memory estimate" in called.err


def test_people_read_a_summary(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    called = kbit("quantize", tiny_model, "--scheme", "int3:g64", "-o", tmp_path / "out")
    assert "bits per weight   3.2500 of encoded weights" in called.out
    assert "left in 16 bits" in called.out


def test_options_reach_the_plan(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--rule", "layers[.]0[.]mlp=int8:g64", "--skip", "v_proj", "--embedding", "int6:g64", "--max-shard-size", "100kB"]
    assert kbit("quantize", tiny_model, "--scheme", "nf4:g64", "-o", tmp_path / "out", *options).code == 0
    shown = kbit("show", tmp_path / "out", "--json").json
    schemes = {tensor["name"]: tensor["scheme"] for tensor in shown["tensors"]}
    assert schemes["model.layers.0.mlp.up_proj"] == "int8:g64"
    assert schemes["model.layers.1.mlp.up_proj"] == "nf4:g64"
    assert schemes["model.layers.1.self_attn.v_proj.weight"] == "bf16"
    assert schemes["model.embed_tokens"] == "int6:g64"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


def test_a_destination_that_is_there_is_kept_unless_told(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["quantize", tiny_model, "-o", tmp_path / "out"]
    assert kbit(*arguments, "--scheme", "nf4:g64").code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    refused = kbit(*arguments, "--scheme", "nf3:g64")
    assert refused.code == 1
    assert refused.err.count("kbit: ") == 1
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert kbit(*arguments, "--scheme", "nf3:g64", "--overwrite").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


def test_a_calibration_text_is_run_and_recorded(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    text = Path(str(files("kbit").joinpath("data", "books")))
    book = sorted(text.glob("*.txt"))[0]
    arguments = ["--calibration", book, "--calibration-tokens", "600", "--seed", "3"]
    called = kbit("quantize", tiny_model, "--scheme", "nf3:g64+gptq", "-o", tmp_path / "out", *arguments, "--json")
    assert called.code == 0, called.err
    assert called.json["scheme"] == "nf3:g64+gptq"
    assert called.json["calibration"]["seed"] == 3
    assert 0 < called.json["calibration"]["tokens"] <= 600
    with open_model(tmp_path / "out") as stored:
        assert stored.manifest.calibration_digest == called.json["calibration"]["digest"]
        assert stored.manifest.seed == 3
    said = kbit("quantize", tiny_model, "--scheme", "nf3:g64+imp", "-o", tmp_path / "people", *arguments)
    assert "calibration       " in said.out
    assert kbit("show", tmp_path / "out", "--json").json["tensors"][1]["scheme"].endswith("+gptq")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheme", "nf9"], "1…8 bits"),
        (["--scheme", "ing4"], "did you mean 'int'"),
        (["--scheme", "nf4", "--rule", "abc"], "REGEX=SCHEME"),
        (["--scheme", "nf4", "--skip", "("], "not a regular expression"),
        (["--scheme", "nf4", "--max-shard-size", "huge"], "5GB"),
        (["--scheme", "nf4+gptq"], "'+gptq' needs a calibration text, and there is none here: give one (kbit quantize --calibration FILE"),
        (["--scheme", "nf4+gptq", "--calibration", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_understood_is_one_line(arguments: list[str], words: str, kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    called = kbit("quantize", tiny_model, "-o", tmp_path / "out", *arguments, "--json")
    assert called.code == 1
    assert called.out == ""
    assert words in called.err
    assert len(called.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_one_line(kbit: Callable, tmp_path: Path) -> None:
    called = kbit("quantize", tmp_path / "nowhere", "--scheme", "nf4", "-o", tmp_path / "out")
    assert called.code == 1
    assert called.err.startswith("kbit: ")
    assert "nowhere" in called.err


def test_nan_is_refused_by_name(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(tiny_model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_torch(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    called = kbit("quantize", broken, "--scheme", "nf4", "-o", tmp_path / "out")
    assert called.code == 1
    assert "model.layers.1.mlp.up_proj" in called.err
    assert not (tmp_path / "out").exists()


def test_usage_is_code_2(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("quantize", tiny_model)
    assert called.code == 2
    assert "--output" in called.err


def test_same_bytes_for_any_thread_count(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        kbit("quantize", tiny_model, "--scheme", "kmeans3:g64", "-o", tmp_path / str(threads), "--threads", threads)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "13")
    assert first == second


def test_make_plan() -> None:
    plan = make_plan("nf4:g64", "int8", "16", ["a=b=int2:g32"], ["norm"])
    assert plan == Plan(Scheme.parse("nf4:g64"), Scheme.parse("int8"), rules=(("a=b", Scheme.parse("int2:g32")),), skip=("norm",))


@pytest.mark.parametrize(("text", "count"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2**31), ("7", 7), ("300kb", 300_000)])
def test_byte_count(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "5XB", "0", "1e9", "0.0001B"])
def test_byte_count_refuses(text: str) -> None:
    with pytest.raises(SchemeError, match="expected a size"):
        byte_count(text)
