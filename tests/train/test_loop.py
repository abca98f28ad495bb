import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.train.conftest import RECIPE

from kbit.core.digest import digest_file
from kbit.core.errors import NumericsError, ResumeMismatch, SchemeError, ShapeError, StorageError
from kbit.evaluate.models import load_causal_model
from kbit.train.loop import train_recipe
from kbit.train.recipe import TrainingRecipe

#: trains in a process of its own that is killed within a step
DRIVER = """
import os, signal, sys, torch
torch.set_num_threads(1)
from kbit.train import loop
step = loop._Run._step
def deadly(self, model, optimizer, number):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, model, optimizer, number)
loop._Run._step = deadly
loop.train_recipe(sys.argv[1], sys.argv[2], sizes=["a"])
"""


@pytest.fixture(scope="module")
def whole(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sizes, trained without a break, on one thread."""
    import torch

    folder, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)
    train_recipe(family / "recipe.toml", folder)
    torch.set_num_threads(threads)
    return folder


def facts(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "tiny-a" / "training.json").read_text())
    del found["minutes"]
    return found


def test_learns_and_says_so(whole: Path) -> None:
    found = facts(whole)
    history = found["history"]
    assert found["tokens"] == 2560
    assert [entry[0] for entry in history] == [128, 2560]
    assert history[0][1] > 5.5  # log 300
    assert found["train_loss"] < history[0][1] - 0.5
    assert 0 < found["heldout_loss"] < history[0][1]
    model = load_causal_model(whole / "tiny-a")
    assert sum(parameter.numel() for parameter in model.parameters()) == found["params"]
    assert not list(whole.glob("*.checkpoint"))
    assert (whole / "tiny-b" / "tokenizer.json").exists()


def test_killed_and_resumed_is_bit_equal(family: Path, whole: Path, tmp_path: Path) -> None:
    import torch

    for step, kept in ((6, 4), (13, 12)):  # checkpoints come every four steps
        command = [sys.executable, "-c", DRIVER, str(family / "recipe.toml"), str(tmp_path), str(step)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert torch.load(tmp_path / "tiny-a.checkpoint", weights_only=True)["step"] == kept
    assert not (tmp_path / "tiny-a").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_recipe(family / "recipe.toml", tmp_path, sizes=["a"])
    torch.set_num_threads(threads)
    assert facts(tmp_path) == facts(whole)
    assert digest_file(tmp_path / "tiny-a" / "model.safetensors") == digest_file(whole / "tiny-a" / "model.safetensors")


def test_finished_sizes_are_left_alone(family: Path, whole: Path) -> None:
    before = (whole / "tiny-a" / "training.json").stat().st_mtime_ns
    assert train_recipe(family / "recipe.toml", whole, sizes=["a"])[0].size == "a"
    assert (whole / "tiny-a" / "training.json").stat().st_mtime_ns == before


def test_refuses_a_model_of_another_recipe(family: Path, whole: Path) -> None:
    other = family / "other.toml"
    other.write_text(RECIPE.replace("seed", "#").replace("3e-3", "4e-3"))
    with pytest.raises(ResumeMismatch, match="another recipe"):
        train_recipe(other, whole, sizes=["a"])


def test_accumulation_does_not_change_what_is_learnt(family: Path, whole: Path, tmp_path: Path) -> None:
    other = family / "whole_batches.toml"
    other.write_text(RECIPE.replace("accumulation = 2", "accumulation = 1").replace("[training]", '[training]\nprecision = "fp32"'))
    twice = family / "two_parts.toml"
    twice.write_text(RECIPE.replace("[training]", '[training]\nprecision = "fp32"'))
    one = train_recipe(other, tmp_path / "one", sizes=["a"])[0]
    two = train_recipe(twice, tmp_path / "two", sizes=["a"])[0]
    assert two.train_loss == pytest.approx(one.train_loss, abs=1e-4)
    assert one.recipe_sha256 != two.recipe_sha256


@pytest.mark.slow
def test_two_processes_learn_what_one_does(family: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("accumulation = 2", "accumulation = 1").replace("[training]", '[training]\nprecision = "fp32"')
    recipe = family / "shared.toml"
    recipe.write_text(text)
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29655", "-m", "kbit", "train"]
    command = [sys.executable, *launch, "--recipe", str(recipe), "-o", str(tmp_path / "two"), "--size", "a", "--threads", "1", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    two = json.loads(ran.stdout)["models"][0]  # one of the two processes speaks
    one = train_recipe(recipe, tmp_path / "one", sizes=["a"])[0]
    assert two["train_loss"] == pytest.approx(one.train_loss, abs=1e-4)
    assert two["heldout_loss"] == pytest.approx(one.heldout_loss, abs=1e-3)


def test_loss_that_is_not_finite_stops(family: Path, tmp_path: Path) -> None:
    wild = family / "wild.toml"
    wild.write_text(RECIPE.replace("3e-3", "10.0").replace("warmup_steps = 3", "warmup_steps = 0\nclip = 0\nweight_decay = 10.0"))
    with pytest.raises(NumericsError, match="at step"):
        train_recipe(wild, tmp_path, sizes=["a"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden_size = 64", "hiden_size = 64", "sizes.b: unknown word 'hiden_size'.*did you mean 'hidden_size'"),
        ('"llama"', '"lama"', "architecture.model_type"),
        ("num_attention_heads = 2", "num_attention_heads = 3", "sizes.a: no causal language model"),
        ("[training]", "[training]\nvocab = 3", "training.vocab: unknown word 'vocab'"),
    ],
)
def test_refuses_architectures_before_training(family: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    bad = family / "bad.toml"
    bad.write_text(RECIPE.replace(old, new))
    with pytest.raises(SchemeError, match=message):
        train_recipe(bad, tmp_path)


def test_refuses_unknown_sizes(family: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="unknown size 'c'"):
        train_recipe(TrainingRecipe.read(family / "recipe.toml"), tmp_path, sizes=["c"])


def test_refuses_a_folder_with_other_things_before_training(family: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-a").mkdir()
    (tmp_path / "tiny-a" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"tiny-a is not empty"):
        train_recipe(family / "recipe.toml", tmp_path)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_refuses_heldout_text_that_is_too_short_before_training(family: Path, tmp_path: Path) -> None:
    (family / "short.txt").write_text("the sea")
    short = family / "short.toml"
    short.write_text(RECIPE.replace("heldout.txt", "short.txt"))
    with pytest.raises(ShapeError, match="at least one window"):
        train_recipe(short, tmp_path)
    assert not list(tmp_path.iterdir())
