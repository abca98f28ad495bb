from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from kbit.core.errors import DTypeError, ModelError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.weights import ModelWeights, as_float32
from kbit.model import quantize_folder
from kbit.store.folder import open_model
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.quantized import QuantizedTensor

from .conftest import Checkpoint, Plain

Opened = Callable[[Path], ModelWeights]


@pytest.fixture
def opened() -> Iterator[Callable[[Path], ModelWeights]]:
    """Folder → weights over it."""
    with ExitStack() as stack:
        yield lambda folder: ModelWeights(stack.enter_context(open_model(folder)))


@pytest.fixture(scope="module")
def packed(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "model"
    plan = Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), skip=("v_proj",))
    quantize_folder(checkpoint("llama_tied_biased"), folder, plan, progress=False)
    return folder


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) / 8 - 3


# ---- plain checkpoints


def test_modules_and_parameters_are_found_by_name(plain: Plain) -> None:
    model = plain({"a.proj.weight": numbers(4, 6), "a.proj.bias": numbers(4), "a.table": numbers(3, 2).half()})
    assert "a.proj" in model
    assert "a.table" in model
    assert "a" not in model
    assert 5 not in model
    assert model.find("a.other") is None
    info = model.info("a.proj", (4, 6))
    assert (info.name, info.owner, info.shape, info.scheme, info.dtype, info.size_bytes) == (
        "a.proj",
        "a.proj.weight",
        (4, 6),
        None,
        "f32",
        96,
    )
    assert model.info("a.table", (3, 2)).dtype == "f16"


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, np.float32), (torch.float16, np.float16), (torch.bfloat16, BFloat16)])
def test_dense_weights_come_as_stored(plain: Plain, dtype: torch.dtype, kind: type) -> None:
    model = plain({"a.weight": numbers(4, 6).to(dtype), "a.bias": numbers(4).to(dtype)})
    loaded = model.load("a")
    assert isinstance(loaded, BFloat16) if kind is BFloat16 else loaded.dtype == kind  # type: ignore[union-attr]
    np.testing.assert_array_equal(as_float32(loaded), numbers(4, 6).numpy())
    vector = model.vector("a.bias", 4)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, numbers(4).numpy())


def test_parameters_lose_the_1_that_they_are_broadcast_by(plain: Plain) -> None:
    model = plain({"bias": numbers(1, 4), "first": numbers(1, 1, 4), "places": numbers(1, 3, 4), "types.weight": numbers(1, 4)})
    shapes = {name: (4,) if name == "bias" else (3, 4) if name == "places" else (1, 4) for name in ("bias", "first", "places", "types")}
    for name, shape in shapes.items():
        assert as_float32(model.load(model.info(name, shape).name)).shape == shape
    assert model.vector("bias", 4).shape == (4,)


def test_a_stack_of_one_expert_stays_a_stack(plain: Plain) -> None:
    model = plain({"experts.down_proj": numbers(1, 3, 4)})
    assert model.load(model.info("experts.down_proj", (1, 3, 4)).name).shape == (1, 3, 4)


def test_convolutions_are_matrices(plain: Plain) -> None:
    model = plain({"patches.weight": numbers(5, 3, 2, 2)})
    np.testing.assert_array_equal(as_float32(model.load(model.info("patches", (5, 12)).name)), numbers(5, 12).numpy())


def test_float32_is_not_copied() -> None:
    array = np.ones((2, 3), np.float32)
    assert as_float32(array) is array


def test_missing_weights_are_named(plain: Plain) -> None:
    model = plain({"layer.up_proj.weight": numbers(4, 6)})
    with pytest.raises(ModelError, match=r"expected 'layer.up_prj' of shape \[4, 6\], got no such tensor: did you mean 'layer.up_proj'"):
        model.info("layer.up_prj", (4, 6))
    with pytest.raises(ModelError, match=r"expected a weight 'layer.up_prj', got no such tensor: did you mean 'layer.up_proj'"):
        model.load("layer.up_prj")
    with pytest.raises(ModelError, match=r"expected 'layer.bias' of shape \[4\], got no such tensor"):
        model.vector("layer.bias", 4)


def test_other_shapes_are_refused(plain: Plain) -> None:
    model = plain({"a.weight": numbers(4, 6), "a.bias": numbers(4)})
    with pytest.raises(ModelError, match=r"'a': expected shape \[6, 4\], got \[4, 6\]"):
        model.info("a", (6, 4))
    with pytest.raises(ModelError, match=r"'a.bias': expected shape \[5\], got \[4\]"):
        model.vector("a.bias", 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(plain: Plain, dtype: torch.dtype) -> None:
    model = plain({"a.weight": numbers(4, 6).to(dtype)})
    with pytest.raises(DTypeError, match=r"'a.weight': expected BF16, F16, F32 or a packed module, got"):
        model.info("a", (4, 6))


# ---- packed models


def test_packed_weights_come_packed(opened: Opened, packed: Path) -> None:
    model = opened(packed)
    info = model.info("model.layers.0.mlp.up_proj", (80, 48))
    assert (info.dtype, info.scheme) == ("nf4:g16", Scheme.parse("nf4:g16"))
    quantized = model.load("model.layers.0.mlp.up_proj")
    assert isinstance(quantized, QuantizedTensor)
    assert info.size_bytes == quantized.size_bytes
    np.testing.assert_array_equal(as_float32(quantized), quantized.dequantize())
    assert model.info("model.layers.0.self_attn.v_proj", (20, 48)).scheme is None
    assert model.vector("model.layers.0.mlp.up_proj.bias", 80).shape == (80,)


def test_tied_names_have_one_owner(opened: Opened, packed: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = opened(packed)
    head, table = model.info("lm_head", (97, 48)), model.info("model.embed_tokens", (97, 48))
    assert (head.name, head.owner, table.owner) == ("lm_head", "model.embed_tokens", "model.embed_tokens")
    quantize_folder(checkpoint("llama_tied_biased"), tmp_path / "plain_head", Plan(Scheme.parse("nf4:g16")), progress=False)
    model = opened(tmp_path / "plain_head")
    assert model.info("lm_head", (97, 48)).owner == "model.embed_tokens.weight"
    np.testing.assert_array_equal(model.load("lm_head"), model.load("model.embed_tokens"))


def test_shapes_of_packed_weights_are_held(opened: Opened, packed: Path) -> None:
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj': expected shape \[48, 80\], got \[80, 48\]"):
        opened(packed).info("model.layers.0.mlp.up_proj", (48, 80))
