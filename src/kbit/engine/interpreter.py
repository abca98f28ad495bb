"""`Interpreter`: one operation of a plan after another, on the rows of a step, in plain numpy.

Packed weights are decoded to float32 first, so a product is exact mode's (ARCHITECTURE.md, "Arithmetic") but for the order of its sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.engine.arithmetic import ACTIVATIONS, attend, attend_all, normalize, rotate, route, softcap, waves
from kbit.engine.ops import (
    Attention,
    Begin,
    CrossAttention,
    Embed,
    Experts,
    ForwardPlan,
    Heads,
    Linear,
    Norm,
    Normalize,
    Op,
    Part,
    Remember,
    Select,
    Waves,
    WeightSlice,
)
from kbit.engine.weights import ModelWeights, as_float32

__all__ = ["Floats", "Interpreter", "Past", "Run", "Step"]

Floats = NDArray[np.float32]
#: keys and values [positions, kv_heads, head_dim] of each layer
Past = list[tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one sequence in a step: rows [begin, end), of which the first stands at position `start`."""

    sequence: int
    begin: int
    end: int
    start: int


@dataclass(slots=True)
class Step:
    """The state of a step.

    Attributes:
        tokens, positions: of each row.
        runs: whose rows they are.
        wanted: rows that `Select` takes.
        buffers: name → [rows, width].
        pasts: sequence → keys and values, those of this step appended layer by layer.
        memories: sequence → keys and values of what was encoded for it, those of this step added.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    runs: list[Run]
    wanted: list[int]
    buffers: dict[str, Floats]
    pasts: dict[int, Past]
    memories: dict[int, Past]


class Interpreter:
    """Runs the operations of a plan.

    Args:
        plan: what to compute.
        weights: read as they are first used, and kept in float32.
    """

    def __init__(self, plan: ForwardPlan, weights: ModelWeights) -> None:
        self.plan, self.weights = plan, weights
        self._weights: dict[str, Floats] = {}

    def run(self, step: Step) -> Floats:
        """All operations; answers with the plan's result, and leaves keys, values and memories in the step."""
        for op in self.plan.ops:
            _RUN[type(op)](self, op, step)
        return step.buffers[self.plan.result]

    # ---- operations

    def _embed(self, op: Embed, step: Step) -> None:
        index = {"token": step.tokens, "position": step.positions, "type": np.zeros_like(step.tokens)}[op.source]
        rows = self._matrix(op.table)[index + op.offset] * np.float32(op.scale)
        self._write(op.out, rows, step, accumulate=op.accumulate)

    def _begin(self, op: Begin, step: Step) -> None:
        first = (step.positions == 0)[:, None]
        self._write(op.out, np.where(first, self._matrix(op.table), step.buffers[op.out]), step)

    def _waves(self, op: Waves, step: Step) -> None:
        self._write(op.out, waves(step.positions, op.frequencies), step, accumulate=op.accumulate)

    def _normalize(self, op: Normalize, step: Step) -> None:
        self._write(op.out, self._normed(step.buffers[op.source], op.norm), step, accumulate=op.accumulate)

    def _linear(self, op: Linear, step: Step) -> None:
        x = self._normed(step.buffers[op.source], op.norm)
        outputs = [self._product(x, part) for part in op.parts]
        activation = ACTIVATIONS[op.activation]
        if op.gated:
            gate, up = outputs
            y = activation(gate) * up
        else:
            y = np.empty((len(x), self.plan.buffers[op.out]), np.float32)
            for part, output in zip(op.parts, outputs, strict=True):
                y[:, part.at : part.at + output.shape[1]] = activation(output)
        self._write(op.out, softcap(y * np.float32(op.scale), op.softcap), step, accumulate=op.accumulate)

    def _attention(self, op: Attention, step: Step) -> None:
        q, k, v = (
            self._heads(place, count, op.head_dim, step) for place, count in ((op.q, op.heads), (op.k, op.kv_heads), (op.v, op.kv_heads))
        )
        q, k = self._normed(q, op.q_norm), self._normed(k, op.k_norm)
        if op.rotary is not None:
            q, k = rotate(q, step.positions, op.rotary), rotate(k, step.positions, op.rotary)
        biases = None if op.relative is None else self._matrix(op.relative.table)
        outputs = []
        for run in step.runs:
            rows, past = slice(run.begin, run.end), step.pasts[run.sequence]
            keys, values = past[op.layer]
            past[op.layer] = np.concatenate([keys, k[rows]]), np.concatenate([values, v[rows]])
            outputs.append(attend(op, q[rows], *past[op.layer], run.start, biases))
        self._write(op.out, np.concatenate(outputs), step)

    def _remember(self, op: Remember, step: Step) -> None:
        k, v = (self._heads(place, op.kv_heads, op.head_dim, step) for place in (op.k, op.v))
        for run in step.runs:
            memory = step.memories[run.sequence]
            assert len(memory) == op.layer, "layers are remembered in order, once"
            memory.append((k[run.begin : run.end], v[run.begin : run.end]))

    def _cross_attention(self, op: CrossAttention, step: Step) -> None:
        q = self._heads(op.q, op.heads, op.head_dim, step)
        outputs = [attend_all(q[run.begin : run.end], *step.memories[run.sequence][op.layer], op.scale) for run in step.runs]
        self._write(op.out, np.concatenate(outputs), step)

    def _experts(self, op: Experts, step: Step) -> None:
        z = self._normed(step.buffers[op.source], op.norm)
        chosen, weights = route(z @ self._matrix(op.router).T, op.top_k, normalize=op.normalize)
        gate_up, down = self._stored(op.gate_up), self._stored(op.down)
        y = np.zeros((len(z), down.shape[1]), np.float32)
        for row, choice in np.ndindex(chosen.shape):
            expert = chosen[row, choice]
            gate, up = np.split(gate_up[expert] @ z[row], 2)
            y[row] += weights[row, choice] * (down[expert] @ (ACTIVATIONS[op.activation](gate) * up))
        self._write(op.out, y, step, accumulate=op.accumulate)

    def _select(self, op: Select, step: Step) -> None:
        self._write(op.out, step.buffers[op.source][step.wanted], step)

    # ---- what they share

    def _write(self, name: str, rows: Floats, step: Step, *, accumulate: bool = False) -> None:
        assert rows.shape[1] == self.plan.buffers[name], f"{name} is {self.plan.buffers[name]} wide, got {rows.shape[1]}"
        step.buffers[name] = step.buffers[name] + rows if accumulate else rows

    def _heads(self, place: Heads, count: int, head_dim: int, step: Step) -> Floats:
        """Heads of a projection, [rows, count, head_dim]."""
        columns = place.at + place.stride * np.arange(count)[:, None] + np.arange(head_dim)
        return step.buffers[place.buffer][:, columns]

    def _normed(self, x: Floats, norm: Norm | None) -> Floats:
        if norm is None:
            return x
        weight, bias = (None if name is None else self._stored(name) for name in (norm.weight, norm.bias))
        return normalize(x, norm, weight, bias)

    def _product(self, x: Floats, part: Part) -> Floats:
        y = x @ self._matrix(part.weight).T
        return y if part.bias is None else y + self._stored(part.bias)

    def _matrix(self, weight: WeightSlice) -> Floats:
        matrix = self._stored(weight.name)
        matrix = matrix.T if weight.transposed else matrix
        return matrix[weight.begin : len(matrix) if weight.end == -1 else weight.end]

    def _stored(self, name: str) -> Floats:
        info = self.weights.find(name)
        owner = name if info is None else info.owner
        if owner not in self._weights:
            self._weights[owner] = as_float32(self.weights.load(name))
        return self._weights[owner]


_RUN: Mapping[type[Op], Callable[..., None]] = {
    Embed: Interpreter._embed,
    Begin: Interpreter._begin,
    Waves: Interpreter._waves,
    Normalize: Interpreter._normalize,
    Linear: Interpreter._linear,
    Attention: Interpreter._attention,
    Remember: Interpreter._remember,
    CrossAttention: Interpreter._cross_attention,
    Experts: Interpreter._experts,
    Select: Interpreter._select,
}
