"""Models of every family on disk, and engines over them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import save_file

from kbit.engine.plan import make_plan
from kbit.engine.reference import ReferenceEngine
from kbit.engine.weights import ModelWeights
from kbit.store.folder import open_model

from .models import KINDS, build, save

Checkpoint = Callable[[str], Path]
Engines = Callable[..., ReferenceEngine]
Plain = Callable[[dict[str, torch.Tensor]], ModelWeights]


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Name of a kind → folder of the model as transformers saves it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save(build(name), tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Folder (and context) → a reference engine over it; files are closed at the end of the test."""
    with ExitStack() as stack:

        def open_engine(folder: Path, context: int | None = None) -> ReferenceEngine:
            stored = stack.enter_context(open_model(folder))
            weights = ModelWeights(stored)
            return ReferenceEngine(make_plan(stored.config, weights, context), weights)

        yield open_engine


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Plain]:
    """Tensors → weights over a checkpoint that holds nothing else."""
    with ExitStack() as stack:

        def make(tensors: dict[str, torch.Tensor]) -> ModelWeights:
            (tmp_path / "config.json").write_text("{}")
            save_file(tensors, tmp_path / "model.safetensors")
            return ModelWeights(stack.enter_context(open_model(tmp_path)))

        yield make


@pytest.fixture
def engine(checkpoint: Checkpoint, engines: Engines) -> Callable[[str], ReferenceEngine]:
    """Name of a kind → a reference engine over its checkpoint."""
    return lambda name: engines(checkpoint(name), KINDS[name].context)
