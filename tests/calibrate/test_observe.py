"""Who gets which inputs, and that nothing stays behind."""

import numpy as np
import torch
from torch import nn

from kbit.calibrate.observe import observed
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.nn.targets import find_targets
from kbit.tensor.rotation import reference_rotate


class Block(nn.Module):
    """Two layers of one input, and one of their product."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.left(x) * self.right(x)
        del x  # its memory may come back as another tensor's
        return self.out(y)


def test_layers_of_one_input_share_a_sum_and_others_do_not() -> None:
    torch.manual_seed(0)
    block = Block()
    plan = Plan(Scheme.parse("int4:g16+gptq"), rules=(("right", Scheme.parse("int4:g16+imp")),))
    targets, _ = find_targets(block, plan.scheme_for)
    batches = [torch.randn(5, 16) for _ in range(3)]
    with torch.no_grad(), observed(block, targets) as found:
        for batch in batches:
            block(batch)
    by_name = {target.name: found.of(target)[0] for target in targets}
    assert by_name["left"] is by_name["right"]
    assert by_name["out"] is not by_name["left"]
    x = torch.cat(batches)
    y = (block.left(x) * block.right(x)).detach()
    np.testing.assert_allclose(by_name["left"].hessian, (x.T @ x / 15).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_name["out"].hessian, (y.T @ y / 15).numpy(), rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_a_sum_of_the_diagonal_is_not_taken_for_the_whole() -> None:
    block = Block()
    plan = Plan(Scheme.parse("int4:g16+gptq"), rules=(("left", Scheme.parse("int4:g16+imp")),))
    targets, _ = find_targets(block, plan.scheme_for)
    with torch.no_grad(), observed(block, targets) as found:
        block(torch.randn(5, 16))
        block(torch.randn(5, 16))
    left, right = (found.of(target)[0] for target in targets[:2])
    assert left is not right
    assert left.rows == right.rows == 10
    assert right.hessian.shape == (16, 16)


def test_layers_never_called_have_no_rows() -> None:
    block = Block()
    targets, _ = find_targets(block, Plan.of("int4:g16+gptq").scheme_for)
    with observed(block, targets) as found:
        pass
    assert [found.of(target)[0].rows for target in targets] == [0, 0, 0]


def test_sums_of_rotated_and_straight_inputs_are_kept_apart() -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for left, right, shared in (
        ("+imp", "+rotate+imp", False),
        ("+rotate+imp", "+rotate+imp", True),
        ("+gptq", "+rotate+gptq", True),  # the whole is of inputs as they come, whoever rotates it
        ("+gptq", "+rotate+imp", False),
        ("+rotate+gptq", "+rotate+imp", True),
    ):
        block = Block()
        plan = Plan(Scheme.parse(f"int4:g16{left}"), rules=(("right", Scheme.parse(f"int4:g16{right}")),))
        targets, _ = find_targets(block, plan.scheme_for)
        with torch.no_grad(), observed(block, targets) as found:
            block(x)
        by_name = {target.name: found.of(target)[0] for target in targets}
        assert (by_name["left"] is by_name["right"]) == shared, (left, right)
        for name, methods in (("left", left), ("right", right)):
            values = reference_rotate(x.numpy()) if "rotate" in methods else x.numpy()
            if "imp" in methods:
                np.testing.assert_allclose(by_name[name].importance, (values**2).mean(0), rtol=1e-4)
