from pathlib import Path

import pytest
from tests.train.conftest import RECIPE

from kbit.core.errors import SchemeError
from kbit.train.recipe import TrainingRecipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_sizes_have_what_all_have_and_their_own(tmp_path: Path) -> None:
    recipe = TrainingRecipe.read(write(tmp_path, RECIPE))
    a, b = recipe.sizes
    assert (a.architecture["hidden_size"], b.architecture["hidden_size"]) == (32, 64)
    assert a.architecture["intermediate_size"] == b.architecture["intermediate_size"] == 64
    assert (a.options.learning_rate, b.options.learning_rate) == (3e-3, 2e-3)
    assert (a.options.steps, a.options.batch_windows, a.options.accumulation) == (20, 4, 2)
    assert recipe.data.train == (tmp_path / "text",)
    assert recipe.data.separator == "\0"


def test_digest_is_of_what_weights_depend_on(tmp_path: Path) -> None:
    def digest(text: str, tokens: str = "t") -> str:
        recipe = TrainingRecipe.read(write(tmp_path, text))
        return recipe.digest(recipe.sizes[0], tokens)

    before = digest(RECIPE)
    assert digest(RECIPE.replace("checkpoint_steps = 4", "checkpoint_steps = 5")) == before
    assert digest(RECIPE.replace("hidden_size = 64\n", "hidden_size = 96\n")) == before  # of the other size
    for old, new in (
        ("2560", "5120"),
        ("3e-3", "4e-3"),
        ("num_hidden_layers = 1", "num_hidden_layers = 2"),
        ("context = 32", "context = 16"),
    ):
        assert digest(RECIPE.replace(old, new)) != before
    assert digest(RECIPE, "u") != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tokens = 2560", "tokens = 0", r"training\.tokens: expected an integer of at least 1, got 0"),
        ("tokens = 2560", "tokens = 100", r"training\.tokens: expected at least one batch of 128, got 100"),
        ("tokens = 2560\n", "", r"training\.tokens is missing"),
        ("accumulation = 2", "accumulation = 3", r"training\.batch_tokens: expected a multiple of context · accumulation"),
        ("[training]", '[training]\nprecision = "bf17"', r"training\.precision: unknown word 'bf17'.*did you mean 'bf16'"),
        ("[training]", '[training]\ndecay = "cosin"', r"training\.decay: unknown word 'cosin'.*did you mean 'cosine'"),
        ("learning_rate = 3e-3", "learning_rate = nan", r"sizes\.a\.learning_rate: expected a number"),
        ("warmup_steps = 3", "warmup_step = 3", r"training\.warmup_step: unknown word"),
        ('train = ["text"]', "train = []", r"data\.train: expected at least one"),
        ('train = ["text"]', 'trian = ["text"]', r"data\.train is missing|data\.trian"),
        ("[sizes.a]", '[sizes."../a"]', r"expected a name of letters"),
        ('name = "tiny"', 'name = "a/b"', r"name: expected a name of letters"),
    ],
)
def test_names_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    path = write(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(SchemeError, match=message) as caught:
        TrainingRecipe.read(path)
    assert str(path) in str(caught.value)


def test_needs_a_size(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="at least one size"):
        TrainingRecipe.read(write(tmp_path, RECIPE.partition("[sizes.a]")[0] + "[sizes]\n"))
