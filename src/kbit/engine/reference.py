"""`ReferenceEngine`: runs a plan in plain numpy, one operation after another. The oracle of the native step; not made for speed.

Packed weights are decoded to float32 first, so a product is exact mode's (ARCHITECTURE.md, "Arithmetic") but for the order of its sums.
A sequence is, for each layer, the keys and values [positions, kv_heads, head_dim] of its past; arrays never change, so forks share them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import NumericsError, ShapeError
from kbit.engine.arithmetic import ACTIVATIONS, attend, attend_all, normalize, rotate, route, softcap, waves
from kbit.engine.feeds import Feed, check_feeds, wanted_rows
from kbit.engine.ops import (
    Attention,
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

__all__ = ["Past", "ReferenceEngine"]

Floats = NDArray[np.float32]
#: keys and values [positions, kv_heads, head_dim] of each layer
Past = list[tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of one sequence in a step: rows [begin, end), of which the first stands at position `start`."""

    sequence: int
    begin: int
    end: int
    start: int


@dataclass(slots=True)
class _Step:
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
    runs: list[_Run]
    wanted: list[int]
    buffers: dict[str, Floats]
    pasts: dict[int, Past]
    memories: dict[int, Past]


class ReferenceEngine:
    """Sequences over a plan.

    Args:
        plan: what to compute.
        weights: read as they are first used, and kept in float32.
    """

    def __init__(self, plan: ForwardPlan, weights: ModelWeights) -> None:
        self.plan, self.weights = plan, weights
        self._pasts: dict[int, Past] = {}
        self._memories: dict[int, Past] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0
        self._weights: dict[str, Floats] = {}

    def sequence(self, memory: Past | None = None) -> int:
        """A new, empty sequence; a decoder's is given the memory of the text that was encoded for it."""
        empty = np.empty((0, self.plan.kv_heads, self.plan.head_dim), np.float32)
        return self._admit([(empty, empty)] * self.plan.layers, 0, memory or [])

    def fork(self, sequence: int, length: int | None = None) -> int:
        """A new sequence with the first `length` positions of another, all of them unless told.

        Raises:
            NumericsError: not alive.
            ShapeError: more positions than it has.
        """
        length = self._check(sequence, length)
        return self._admit([(k[:length], v[:length]) for k, v in self._pasts[sequence]], length, self._memories[sequence])

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all positions from `length` on.

        Raises:
            NumericsError: not alive.
            ShapeError: more positions than it has.
        """
        self._lengths[sequence] = self._check(sequence, length)
        self._pasts[sequence] = [(k[:length], v[:length]) for k, v in self._pasts[sequence]]

    def free(self, sequence: int) -> None:
        """End a sequence.

        Raises:
            NumericsError: not alive.
        """
        self._check(sequence, None)
        del self._pasts[sequence], self._lengths[sequence], self._memories[sequence]

    def length(self, sequence: int) -> int:
        """Positions that a sequence has.

        Raises:
            NumericsError: not alive.
        """
        return self._check(sequence, None)

    def memory(self, sequence: int) -> Past:
        """Keys and values, for each layer of the decoder, that an encoder's step left.

        Raises:
            NumericsError: not alive.
        """
        self._check(sequence, None)
        return self._memories[sequence]

    def step(self, feeds: Sequence[Feed]) -> Floats:
        """One forward step.

        Returns:
            Logits (hidden states of a model without a head) [wanted rows, width], feeds in order.

        Raises:
            As `check_feeds`; nothing has changed then.
        """
        check_feeds(feeds, self.plan, self._lengths)
        step = self._begin(feeds)
        for op in self.plan.ops:
            _RUN[type(op)](self, op, step)
        self._pasts.update(step.pasts)
        self._memories.update(step.memories)
        for run in step.runs:
            self._lengths[run.sequence] = run.start + run.end - run.begin
        return step.buffers[self.plan.result]

    def _admit(self, past: Past, length: int, memory: Past) -> int:
        sequence, self._next = self._next, self._next + 1
        self._pasts[sequence], self._lengths[sequence], self._memories[sequence] = past, length, memory
        return sequence

    def _check(self, sequence: int, length: int | None) -> int:
        if sequence not in self._lengths:
            raise NumericsError(f"sequence {sequence} is not alive: expected one of {len(self._lengths)} that are")
        present = self._lengths[sequence]
        if length is not None and not 0 <= length <= present:
            raise ShapeError(f"sequence {sequence}: expected a length in 0…{present}, got {length}")
        return present if length is None else length

    def _begin(self, feeds: Sequence[Feed]) -> _Step:
        runs: list[_Run] = []
        for feed in feeds:
            begin = runs[-1].end if runs else 0
            runs.append(_Run(feed.sequence, begin, begin + len(feed.tokens), self._lengths[feed.sequence]))
        tokens = np.array([token for feed in feeds for token in feed.tokens], np.int64)
        positions = np.concatenate([run.start + np.arange(run.end - run.begin) for run in runs])
        pasts, memories = ({run.sequence: list(kept[run.sequence]) for run in runs} for kept in (self._pasts, self._memories))
        return _Step(tokens, positions, runs, wanted_rows(feeds), {}, pasts, memories)

    # ---- operations

    def _embed(self, op: Embed, step: _Step) -> None:
        index = {"token": step.tokens, "position": step.positions, "type": np.zeros_like(step.tokens)}[op.source]
        rows = self._matrix(op.table)[index + op.offset] * np.float32(op.scale)
        self._write(op.out, rows, step, accumulate=op.accumulate)

    def _waves(self, op: Waves, step: _Step) -> None:
        self._write(op.out, waves(step.positions, op.frequencies), step, accumulate=op.accumulate)

    def _normalize(self, op: Normalize, step: _Step) -> None:
        self._write(op.out, self._normed(step.buffers[op.source], op.norm), step, accumulate=op.accumulate)

    def _linear(self, op: Linear, step: _Step) -> None:
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

    def _attention(self, op: Attention, step: _Step) -> None:
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

    def _remember(self, op: Remember, step: _Step) -> None:
        k, v = (self._heads(place, op.kv_heads, op.head_dim, step) for place in (op.k, op.v))
        for run in step.runs:
            memory = step.memories[run.sequence]
            assert len(memory) == op.layer, "layers are remembered in order, once"
            memory.append((k[run.begin : run.end], v[run.begin : run.end]))

    def _cross_attention(self, op: CrossAttention, step: _Step) -> None:
        q = self._heads(op.q, op.heads, op.head_dim, step)
        outputs = [attend_all(q[run.begin : run.end], *step.memories[run.sequence][op.layer], op.scale) for run in step.runs]
        self._write(op.out, np.concatenate(outputs), step)

    def _experts(self, op: Experts, step: _Step) -> None:
        z = self._normed(step.buffers[op.source], op.norm)
        chosen, weights = route(z @ self._matrix(op.router).T, op.top_k, normalize=op.normalize)
        gate_up, down = self._stored(op.gate_up), self._stored(op.down)
        y = np.zeros((len(z), down.shape[1]), np.float32)
        for row, choice in np.ndindex(chosen.shape):
            expert = chosen[row, choice]
            gate, up = np.split(gate_up[expert] @ z[row], 2)
            y[row] += weights[row, choice] * (down[expert] @ (ACTIVATIONS[op.activation](gate) * up))
        self._write(op.out, y, step, accumulate=op.accumulate)

    def _select(self, op: Select, step: _Step) -> None:
        self._write(op.out, step.buffers[op.source][step.wanted], step)

    # ---- what they share

    def _write(self, name: str, rows: Floats, step: _Step, *, accumulate: bool = False) -> None:
        assert rows.shape[1] == self.plan.buffers[name], f"{name} is {self.plan.buffers[name]} wide, got {rows.shape[1]}"
        step.buffers[name] = step.buffers[name] + rows if accumulate else rows

    def _heads(self, place: Heads, count: int, head_dim: int, step: _Step) -> Floats:
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
    Embed: ReferenceEngine._embed,
    Waves: ReferenceEngine._waves,
    Normalize: ReferenceEngine._normalize,
    Linear: ReferenceEngine._linear,
    Attention: ReferenceEngine._attention,
    Remember: ReferenceEngine._remember,
    CrossAttention: ReferenceEngine._cross_attention,
    Experts: ReferenceEngine._experts,
    Select: ReferenceEngine._select,
}
