"""What a calibration text is run in, and that bfloat16 is the same computation but for rounding."""

from collections.abc import Callable

import pytest
import torch

from kbit.calibrate import arithmetic
from kbit.calibrate.arithmetic import LARGE_LAYER, choose_arithmetic, layer_parameters
from kbit.calibrate.observe import observed
from kbit.calibrate.walk import LayerWalk
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.nn.targets import find_targets


def test_parameters_of_the_largest_layer() -> None:
    shapes = {"model.layers.0.a": (2, 3), "model.layers.1.a": (2, 3), "model.layers.1.mlp.experts.5.b": (4, 4), "lm_head": (100, 100)}
    assert layer_parameters(shapes) == 6 + 16
    assert layer_parameters({"lm_head": (100, 100)}) == 0


@pytest.mark.parametrize("tiles", [True, False])
def test_auto_rounds_where_that_is_quicker(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_has_tiles", lambda: tiles)
    assert choose_arithmetic("auto", LARGE_LAYER) == ("bfloat16" if tiles else "float32")
    assert choose_arithmetic("auto", LARGE_LAYER - 1) == "float32"
    assert choose_arithmetic("bfloat16", 1) == "bfloat16"
    assert choose_arithmetic("float32", LARGE_LAYER) == "float32"


def test_no_other_arithmetic() -> None:
    with pytest.raises(SchemeError, match=r"'float16'.*bfloat16"):
        choose_arithmetic("float16", 1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma3", "bert"])
def test_inputs_are_those_of_float32_but_for_rounding(kind: str, make_model: Callable, ids: torch.Tensor) -> None:
    model = make_model(kind)
    for parameter in model.parameters():
        parameter.data /= 4  # random layers that amplify nothing
    targets, _ = find_targets(model, Plan.of("int4:g16+gptq").scheme_for)
    found = {}
    for name in ("float32", "bfloat16"):
        with LayerWalk(model, ids, name) as walk:
            inside = [target for target in targets if target.name.startswith(f"{walk.name}.1.")]
            walk.start()
            walk.run(0, keep=True)
            assert walk._states[0].dtype == torch.float32
            with observed(model, inside) as inputs:
                walk.run(1, keep=False)
        found[name] = {target.name: [torch.from_numpy(one.hessian) for one in inputs.of(target) if one.rows] for target in inside}
    assert found["float32"]
    for name, hessians in found["float32"].items():
        for exact, rounded in zip(hessians, found["bfloat16"][name], strict=True):
            assert not torch.equal(exact, rounded)
            assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_hessians_are_of_rounded_inputs() -> None:
    from kbit.calibrate.moments import InputMoments

    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    moments = InputMoments(12, full=True)
    with torch.autocast("cpu", torch.bfloat16):
        moments.add(x)
    rounded = x.bfloat16().double()
    torch.testing.assert_close(torch.from_numpy(moments.hessian).double(), rounded.T @ rounded / 50, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(moments.mean).double(), rounded.mean(0), rtol=1e-5, atol=1e-6)
