"""From a plan to the native step: weights loaded once each, names and buffers resolved to numbers.

Sinusoidal positions become a table of all that the model knows, biases by distance one of all distances up to where they no longer change.
"""

from typing import get_args

import numpy as np

from kbit.core.errors import ModelError, ShapeError
from kbit.engine.arithmetic import alibi_slopes, relative_buckets, waves
from kbit.engine.cache import PAGE_POSITIONS
from kbit.engine.ops import (
    Activation,
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
    Relative,
    Remember,
    Select,
    Waves,
)
from kbit.engine.program_weights import ProgramWeights
from kbit.engine.weights import ModelWeights, as_float32
from kbit.native import _kbit

__all__ = ["MAX_ROWS", "NativeProgram"]

#: rows of a step at most
MAX_ROWS = 4096

_ACTIVATIONS = {name: number for number, name in enumerate(get_args(Activation))}
_SOURCES = {"token": 0, "position": 1, "type": 2}
_NORMS = {"rms": 1, "layer": 2}
_NO_NORM = (0, None, None, 0.0)
_NO_BIASES = (None, 0, 0)


class NativeProgram:
    """A plan ready to run.

    Args:
        plan: what a step computes.
        weights: read here, once for each stored matrix; what they are read into stays alive with the program.
        max_rows: rows of a step, 1…4096.
        threads: of a step at most.

    Attributes:
        native: the compiled program.
        workspace_bytes: memory that a step works in, besides weights and cache.
    """

    def __init__(self, plan: ForwardPlan, weights: ModelWeights, *, max_rows: int, threads: int) -> None:
        if not 1 <= max_rows <= MAX_ROWS:
            raise ShapeError(f"max_rows: expected 1…{MAX_ROWS}, got {max_rows}")
        self.native = _kbit.Program(max_rows)
        self._weights, self._context = ProgramWeights(self.native, weights), plan.context
        self._biases: dict[tuple[Relative, bool], tuple[int, int, int]] = {}
        self._buffers = {name: self.native.buffer(width) for name, width in plan.buffers.items()}
        for op in plan.ops:
            self._add(op)
        self._weights.forget()
        source = -1 if plan.input is None else self._buffers[plan.input]
        self.native.finish(source, self._buffers[plan.result], threads)
        self.workspace_bytes: int = self.native.workspace_bytes()

    def _add(self, op: Op) -> None:
        match op:
            case Embed():
                table = self._weights.matrix(op.table)
                self.native.embed(table, self._buffers[op.out], _SOURCES[op.source], op.scale, op.offset, op.accumulate)
            case Begin():
                self.native.begin(self._weights.matrix(op.table), self._buffers[op.out])
            case Waves():
                self._add_waves(op)
            case Normalize():
                self.native.normalize(self._buffers[op.source], self._buffers[op.out], self._norm(op.norm), op.accumulate)
            case Linear():
                self._add_linear(op)
            case Attention():
                self._add_attention(op)
            case Remember():
                self.native.remember(op.layer, self._heads(op.k), self._heads(op.v), op.kv_heads, op.head_dim)
            case CrossAttention():
                sizes = (op.heads, op.kv_heads, op.head_dim)
                self.native.cross_attention(op.layer, self._heads(op.q), self._buffers[op.out], *sizes, op.scale)
            case Experts():
                self._add_experts(op)
            case Select():
                self.native.select(self._buffers[op.source], self._buffers[op.out])

    def _add_waves(self, op: Waves) -> None:
        if not self._context:
            raise ModelError("sinusoidal positions: expected a model that says how many it knows, got one without a limit")
        table = self._weights.dense(waves(np.arange(self._context), op.frequencies))
        self.native.embed(table, self._buffers[op.out], _SOURCES["position"], 1.0, 0, op.accumulate)

    def _add_linear(self, op: Linear) -> None:
        self.native.linear(
            self._buffers[op.source],
            self._norm(op.norm),
            [self._weights.part(part) for part in op.parts],
            self._buffers[op.out],
            _ACTIVATIONS[op.activation],
            op.gated,
            op.accumulate,
            op.scale,
            op.softcap or 0.0,
        )

    def _add_attention(self, op: Attention) -> None:
        rotary = op.rotary
        frequencies = None if rotary is None else self.native.vector(np.asarray(rotary.frequencies, np.float32))
        slopes = self.native.vector(alibi_slopes(op.heads)) if op.alibi else None
        self.native.attention(
            op.layer,
            self._heads(op.q),
            self._heads(op.k),
            self._heads(op.v),
            self._buffers[op.out],
            op.heads,
            op.kv_heads,
            op.head_dim,
            op.scale,
            op.softcap or 0.0,
            op.causal,
            frequencies,
            rotary is not None and rotary.interleaved,
            1.0 if rotary is None else rotary.factor,
            self._norm(op.q_norm),
            self._norm(op.k_norm),
            op.window or 0,
            slopes,
            _NO_BIASES if op.relative is None else self._relative(op.relative, both_ways=not op.causal),
        )

    def _add_experts(self, op: Experts) -> None:
        self.native.experts(
            self._buffers[op.source],
            self._buffers[op.out],
            self._norm(op.norm),
            self._weights.matrix(op.router, dense=True),
            self._weights.stack(op.gate_up),
            self._weights.stack(op.down),
            op.top_k,
            op.normalize,
            op.accumulate,
            _ACTIVATIONS[op.activation],
        )

    def _relative(self, relative: Relative, *, both_ways: bool) -> tuple[int, int, int]:
        """Biases [heads, 2·reach − 1] by distance from −(reach − 1) on, where they no longer change and how far the table reaches."""
        key = (relative, both_ways)
        if key not in self._biases:
            last, reach = relative.longest, relative.longest + PAGE_POSITIONS
            buckets = relative_buckets(np.arange(1 - reach, reach), relative.buckets, relative.longest, both_ways=both_ways)
            table = as_float32(self._weights.read(relative.table.name))[buckets].T
            self._biases[key] = self.native.vector(np.ascontiguousarray(table).reshape(-1)), last, reach
        return self._biases[key]

    def _heads(self, heads: Heads) -> tuple[int, int, int]:
        return self._buffers[heads.buffer], heads.at, heads.stride

    def _norm(self, norm: Norm | None) -> tuple[int, int | None, int | None, float]:
        if norm is None:
            return _NO_NORM
        weight = None if norm.weight is None else self._weights.vector(norm.weight, plus_one=norm.plus_one)
        bias = None if norm.bias is None else self._weights.vector(norm.bias)
        return _NORMS[norm.kind], weight, bias, norm.eps
