"""Packed experts against a plain loop over the decoded weights, for every layout that transformers has."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kbit.core.scheme import Scheme
from kbit.nn import KbitExperts, KbitStack, swap, unswap
from kbit.nn.experts import is_experts

EXPERTS, HIDDEN, INNER = 4, 48, 40


class Experts(nn.Module):
    """What transformers' experts layers look like, with every option, and the arithmetic written down plainly."""

    def __init__(self, *, has_gate: bool = True, has_bias: bool = False, is_transposed: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(_experts_implementation="eager")
        self.num_experts, self.has_gate, self.has_bias, self.is_transposed = EXPERTS, has_gate, has_bias, is_transposed
        self.has_post_expert_norm = norm
        shapes = {self.first: (2 * INNER if has_gate else INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
        for name, (rows, cols) in shapes.items():
            weight = 0.1 * torch.randn(EXPERTS, rows, cols)
            setattr(self, name, nn.Parameter(weight.transpose(1, 2).contiguous() if is_transposed else weight))
            if has_bias:
                setattr(self, f"{name}_bias", nn.Parameter(torch.randn(EXPERTS, rows)))
        self.act_fn = nn.SiLU()
        if norm:
            self.post_expert_norm = nn.LayerNorm(HIDDEN)

    @property
    def first(self) -> str:
        return "gate_up_proj" if self.has_gate else "up_proj"

    def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * up

    def forward(self, states: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(states)
        for token in range(states.shape[0]):
            for choice, expert in enumerate(index[token].tolist()):
                if expert < self.num_experts:
                    y = self.project(states[token], self.first, expert)
                    y = self.project(self._apply_gate(y) if self.has_gate else self.act_fn(y), "down_proj", expert)
                    y = self.post_expert_norm(y) if self.has_post_expert_norm else y
                    out[token] += y * weights[token, choice]
        return out

    def project(self, x: torch.Tensor, name: str, expert: int) -> torch.Tensor:
        weight = getattr(self, name)[expert]
        y = x @ weight if self.is_transposed else weight @ x
        return y + getattr(self, f"{name}_bias")[expert] if self.has_bias else y


OPTIONS = [
    {},
    {"has_gate": False},
    {"is_transposed": True, "has_bias": True},
    {"has_bias": True, "norm": True},
]


def inputs(tokens: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(tokens)]) if tokens else torch.empty(0, 2, dtype=torch.int64)
    return torch.randn(tokens, HIDDEN), index, torch.rand(tokens, 2)


@pytest.mark.parametrize("options", OPTIONS)
def test_packed_experts_equal_the_decoded_layer(options: dict[str, bool]) -> None:
    torch.manual_seed(2)
    model = nn.ModuleDict({"experts": Experts(**options)})
    report = swap(model, "int5:g16", mode="exact")
    packed = model["experts"]
    assert [target.kind for target in report.packed] == ["experts"] * 2
    assert isinstance(packed, KbitExperts)
    assert all(isinstance(getattr(packed, target.name.rpartition(".")[2]), KbitStack) for target in report.packed)
    x = inputs()
    y = packed(*x)
    decoded = packed.dequantize()
    assert type(decoded) is Experts
    torch.testing.assert_close(y, decoded(*x), rtol=1e-4, atol=1e-4)
    for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(copied(*x), y)


def test_decoded_parameters_have_the_layout_of_the_original() -> None:
    original = Experts(is_transposed=True, has_bias=True)
    model = nn.ModuleDict({"experts": original})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    swap(model, "int8:g16")
    unswap(model)
    after = model.state_dict()
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0.02)


def test_masked_choices_and_empty_batches() -> None:
    model = nn.ModuleDict({"experts": Experts()})
    swap(model, "int5:g16", mode="exact")
    states, index, weights = inputs()
    index[3] = EXPERTS
    y = model["experts"](states, index, weights)
    assert torch.count_nonzero(y[3]) == 0
    torch.testing.assert_close(y, model["experts"].dequantize()(states, index, weights), rtol=1e-4, atol=1e-4)
    assert model["experts"](*inputs(0)).shape == (0, HIDDEN)


def test_result_does_not_depend_on_how_tokens_are_grouped() -> None:
    model = nn.ModuleDict({"experts": Experts()})
    swap(model, "int5:g16", mode="exact")
    states, index, weights = inputs()
    whole = model["experts"](states, index, weights)
    single = [model["experts"](states[i : i + 1], index[i : i + 1], weights[i : i + 1]) for i in range(len(states))]
    assert torch.equal(whole, torch.cat(single))


def test_one_projection_may_stay() -> None:
    model = nn.ModuleDict({"experts": Experts(is_transposed=True, has_bias=True)})
    report = swap(model, lambda name, kind: Scheme.parse("int5:g16" if "gate_up" in name else "16"), mode="exact")
    assert [target.name for target in report.packed] == ["experts.gate_up_proj"]
    assert [kept.name for kept in report.kept] == ["experts.down_proj"]
    x = inputs()
    torch.testing.assert_close(model["experts"](*x), model["experts"].dequantize()(*x), rtol=1e-4, atol=1e-4)


def test_gradient_reaches_the_input() -> None:
    model = nn.ModuleDict({"experts": Experts()})
    swap(model, "int5:g16", mode="exact")
    states, index, weights = inputs()
    left, right = states.clone().requires_grad_(), states.clone().requires_grad_()
    model["experts"](left, index, weights).sum().backward()
    model["experts"].dequantize()(right, index, weights).sum().backward()
    torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-4)


def test_other_modules_are_no_experts() -> None:
    assert is_experts(Experts())
    assert not is_experts(nn.Linear(2, 2))
    flat = Experts()
    flat.down_proj = nn.Parameter(torch.zeros(4, 4))
    assert not is_experts(flat)
