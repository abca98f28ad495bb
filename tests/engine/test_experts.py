"""Stacks made of single experts, in both spellings; reading them goes through `ModelWeights`, as in use."""

import numpy as np
import pytest
import torch

from kbit.core.errors import DTypeError, ModelError
from kbit.engine.weights import as_float32

from .conftest import Plain

EXPERTS, WIDTH, SIZE = 3, 5, 4


def experts(gate: str, up: str, down: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    shapes = {gate: (WIDTH, SIZE), up: (WIDTH, SIZE), down: (SIZE, WIDTH)}
    return {
        f"mlp.experts.{expert}.{name}.weight": torch.randn(shape).to(dtype) for expert in range(EXPERTS) for name, shape in shapes.items()
    }


@pytest.mark.parametrize("names", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_experts_become_stacks(plain: Plain, names: tuple[str, str, str], dtype: torch.dtype) -> None:
    tensors = experts(*names, dtype=dtype)
    model = plain(tensors)
    stacks = {name: [tensors[f"mlp.experts.{expert}.{name}.weight"].float() for expert in range(EXPERTS)] for name in names}
    gate, up, down = (torch.stack(stacks[name]) for name in names)
    info = model.info("mlp.experts.gate_up_proj", (EXPERTS, 2 * WIDTH, SIZE))
    assert (info.owner, info.size_bytes) == ("mlp.experts.gate_up_proj", EXPERTS * 2 * WIDTH * SIZE * dtype.itemsize)
    np.testing.assert_array_equal(as_float32(model.load("mlp.experts.gate_up_proj")), torch.cat([gate, up], dim=1).numpy())
    np.testing.assert_array_equal(as_float32(model.load("mlp.experts.down_proj")), down.numpy())


def test_fused_stacks_are_taken_as_they_are(plain: Plain) -> None:
    stack = torch.randn(EXPERTS, 2 * WIDTH, SIZE)
    model = plain({"mlp.experts.gate_up_proj": stack})
    np.testing.assert_array_equal(model.load("mlp.experts.gate_up_proj"), stack.numpy())
    assert "mlp.experts.down_proj" not in model


def test_an_expert_without_a_tensor_is_refused(plain: Plain) -> None:
    tensors = experts("w1", "w3", "w2")
    del tensors["mlp.experts.1.w3.weight"]
    with pytest.raises(ModelError, match=r"expected 'mlp.experts.1.w3.weight' beside 'mlp.experts.1.w1.weight', got no such tensor"):
        plain(tensors).find("mlp.experts.gate_up_proj")


def test_a_missing_expert_makes_a_smaller_stack_that_does_not_fit(plain: Plain) -> None:
    tensors = experts("w1", "w3", "w2")
    del tensors["mlp.experts.1.w2.weight"]
    with pytest.raises(ModelError, match=r"'mlp.experts.down_proj': expected shape \[3, 4, 5\], got \[1, 4, 5\]"):
        plain(tensors).info("mlp.experts.down_proj", (EXPERTS, SIZE, WIDTH))


@pytest.mark.parametrize("other", [torch.randn(WIDTH + 1, SIZE), torch.randn(WIDTH, SIZE).half()])
def test_unequal_experts_are_refused(plain: Plain, other: torch.Tensor) -> None:
    tensors = experts("w1", "w3", "w2") | {"mlp.experts.2.w1.weight": other, "mlp.experts.2.w3.weight": other.clone()}
    with pytest.raises(ModelError, match=r"the expert of 'mlp.experts.2.w1.weight': expected F32 \[10, 4\] as in expert 0, got F"):
        plain(tensors).find("mlp.experts.gate_up_proj")


@pytest.mark.parametrize("other", [torch.randn(WIDTH, SIZE + 1), torch.randn(WIDTH, SIZE).half(), torch.randn(WIDTH)])
def test_unequal_parts_of_an_expert_are_refused(plain: Plain, other: torch.Tensor) -> None:
    tensors = experts("w1", "w3", "w2") | {"mlp.experts.0.w3.weight": other}
    with pytest.raises(ModelError, match=r"'mlp.experts.0.w1.weight': expected matrices of one width and dtype, got"):
        plain(tensors).find("mlp.experts.gate_up_proj")


def test_experts_of_other_dtypes_are_refused(plain: Plain) -> None:
    with pytest.raises(DTypeError, match=r"'mlp.experts.0.w2.weight': expected BF16, F16, F32 or a packed module, got F64"):
        plain(experts("w1", "w3", "w2", torch.float64)).find("mlp.experts.down_proj")
