"""Images: patches as rows, and models of them against transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model
from kbit.core.errors import DTypeError, LimitError, NumericsError, SchemeError, ShapeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.feeds import Feed, Patches
from kbit.engine.patches import unfold
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.model import quantize_folder
from kbit.store.folder import open_model

from .conftest import Checkpoint, Engines
from .models import IMAGES, answer_image, build, difference, picture

TOLERANCE = 1e-5


def rows(name: str, outputs: np.ndarray) -> np.ndarray:
    """What transformers answers with, of the engine's rows: a classifier reads the first."""
    return outputs[:1] if name == "vit_classes" else outputs


def test_patches_are_what_a_convolution_reads() -> None:
    image, weight = torch.randn(3, 12, 20), torch.randn(7, 3, 4, 4)
    patches = unfold(image.numpy(), 4)
    assert patches.shape == (16, 48)
    assert patches.dtype == np.float32
    assert not patches[0].any()
    expected = torch.nn.functional.conv2d(image[None], weight, stride=4)[0].flatten(1).T
    np.testing.assert_allclose(patches[1:] @ weight.reshape(7, -1).numpy().T, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 12), (3, 12, 13), (3, 10, 12)])
def test_images_are_whole_patches(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected an image .* of whole patches of 4, got"):
        unfold(np.zeros(shape, np.float32), 4)


@pytest.mark.parametrize("name", IMAGES)
def test_agrees_with_transformers(name: str, checkpoint: Checkpoint, engines: Engines) -> None:
    model, engine = build(name), engines(checkpoint(name))
    images = [picture(seed) for seed in range(2)]
    expected = [answer_image(model, image) for image in images]
    whole = engine.step([Patches(engine.sequence(), unfold(images[0], 4))])
    assert difference(rows(name, whole), expected[0]) < TOLERANCE
    both = engine.step([Patches(engine.sequence(), unfold(image, 4)) for image in images])
    for image in range(2):
        assert difference(rows(name, both[10 * image : 10 * image + 10]), expected[image]) < TOLERANCE


@pytest.mark.parametrize("name", IMAGES)
def test_packed_models_agree(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "packed", Plan(Scheme.parse("int8:g16")), progress=False)
    model = kbit.model.load(tmp_path / "packed", mode="exact", attn_implementation="eager")
    engine = engines(tmp_path / "packed")
    outputs = engine.step([Patches(engine.sequence(), unfold(picture(3), 4))])
    assert difference(rows(name, outputs), answer_image(model, picture(3))) < TOLERANCE


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0]], DTypeError, "expected rows of float32, got list"),
        (np.zeros((1, 2)), DTypeError, "expected rows of float32, got float64"),
        (np.zeros(3, np.float32), ShapeError, r"expected at least one row \[rows, width\], got shape \[3\]"),
        (np.zeros((0, 3), np.float32), ShapeError, "expected at least one row"),
        (np.full((1, 2), np.nan, np.float32), NumericsError, "sequence 0: expected finite numbers"),
    ],
)
def test_rows_are_refused_when_made(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Patches(0, values)  # type: ignore[arg-type]


def test_wanted_is_one_of_its_words() -> None:
    with pytest.raises(SchemeError, match="wanted: expected one of last, all, none, got 'first'"):
        Patches(0, np.zeros((1, 2), np.float32), "first")  # type: ignore[arg-type]


def test_tokens_and_rows_are_not_mixed_up(checkpoint: Checkpoint, engines: Engines) -> None:
    images, texts = engines(checkpoint("vit")), engines(checkpoint("bert"))
    with pytest.raises(DTypeError, match="expected Patches, rows of 32 numbers, got a Feed of tokens"):
        images.step([Feed(images.sequence(), [1])])
    with pytest.raises(DTypeError, match="expected a Feed of tokens, got Patches"):
        texts.step([Patches(texts.sequence(), np.zeros((1, 32), np.float32))])
    with pytest.raises(ShapeError, match="expected rows of 32 numbers, got 31"):
        images.step([Patches(images.sequence(), np.zeros((1, 31), np.float32))])
    with pytest.raises(LimitError, match="expected at most 10 positions"):
        images.step([Patches(images.sequence(), np.zeros((11, 32), np.float32))])


def test_a_plan_of_images_says_what_it_reads(checkpoint: Checkpoint) -> None:
    with open_model(checkpoint("vit")) as stored:
        plan = make_plan(stored.config, ModelWeights(stored))
    assert (plan.input, plan.vocabulary, plan.context) == ("patches", 0, 10)
