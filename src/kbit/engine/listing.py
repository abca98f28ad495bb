"""`plan_text`: a plan to read, an operation a line: what it reads and writes, and of its weights name, shape and scheme."""

from collections.abc import Iterable, Iterator

from kbit.core.rotation import rotation_block
from kbit.engine.ops import (
    Attention,
    Begin,
    CrossAttention,
    Embed,
    Experts,
    ForwardPlan,
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
from kbit.engine.weights import ModelWeights

__all__ = ["plan_text"]


def plan_text(plan: ForwardPlan, weights: ModelWeights) -> str:
    """The listing, one heading and one line an operation; ``+x`` is added to what x holds.

    Args:
        plan: to list.
        weights: that it was made for.
    """
    listing = _Listing(weights)
    rows = [(str(index), *listing.row(op)) for index, op in enumerate(plan.ops)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (f"{n:>{widths[0]}}  {verb:<{widths[1]}}  {flow:<{widths[2]}}  {what}".rstrip() for n, verb, flow, what in rows)
    return "\n".join((_heading(plan), *lines)) + "\n"


def _heading(plan: ForwardPlan) -> str:
    context = f"{plan.context} positions" if plan.context else "positions without limit"
    cache = f"{plan.layers} layers of {plan.kv_heads} heads of {plan.head_dim}"
    kind = "decoder" if plan.causal else "encoder"
    source = f"vocabulary {plan.vocabulary}" if plan.input is None else f"rows of {plan.buffers[plan.input]}"
    buffers = ", ".join(f"{name} {width}" for name, width in plan.buffers.items())
    return f"{plan.architecture}, {kind}: {source}, {context}, {cache}; answers with {plan.result}\nbuffers: {buffers}"


class _Listing:
    """Words for operations, with what the weights' headers say."""

    def __init__(self, weights: ModelWeights) -> None:
        self.weights = weights

    def row(self, op: Op) -> tuple[str, str, str]:
        """Verb, flow and the rest of an operation's line."""
        if isinstance(op, Embed):
            return "embed", _flow(op.source, op.out, accumulate=op.accumulate), self._embed(op)
        if isinstance(op, Normalize):
            return "normalize", _flow(op.source, op.out, accumulate=op.accumulate), self._norm(op.norm)
        if isinstance(op, Linear):
            return "linear", _flow(op.source, op.out, accumulate=op.accumulate), self._linear(op)
        if isinstance(op, Attention):
            return "attention", _flow(op.q.buffer, op.out), self._attention(op)
        if isinstance(op, Experts):
            return "experts", _flow(op.source, op.out, accumulate=op.accumulate), self._experts(op)
        if isinstance(op, Begin):
            return "begin", _flow("first rows", op.out), self._matrix(op.table)
        if isinstance(op, Waves):
            return "waves", _flow("position", op.out, accumulate=op.accumulate), f"{len(op.frequencies)} frequencies"
        if isinstance(op, Remember):
            return "remember", _flow(op.k.buffer, "memory"), f"layer {op.layer}, {op.kv_heads} heads of {op.head_dim}"
        if isinstance(op, CrossAttention):
            what = f"layer {op.layer}, {op.heads} heads on {op.kv_heads} of {op.head_dim}"
            return "attention", _flow(f"{op.q.buffer}, memory", op.out), what
        assert isinstance(op, Select), f"no words for {type(op).__name__}"
        return "select", _flow(op.source, op.out), "wanted rows"

    def _embed(self, op: Embed) -> str:
        return _joined([self._matrix(op.table), op.scale != 1 and f"times {op.scale:.6g}", op.offset and f"from row {op.offset}"])

    def _norm(self, norm: Norm | None) -> str:
        if norm is None:
            return ""
        vectors = "without weight" if norm.weight is None else norm.weight.removesuffix(".weight")
        return f"{norm.kind} norm {vectors}{' plus one' if norm.plus_one else ''}{' + bias' if norm.bias else ''}"

    def _linear(self, op: Linear) -> str:
        return _joined(
            [
                self._norm(op.norm),
                self._rotation(op.parts),
                *self._parts(op.parts),
                op.activation != "none" and op.activation,
                op.gated and "gated",
                op.scale != 1 and f"times {op.scale:.6g}",
                op.softcap is not None and f"capped at {op.softcap:g}",
            ]
        )

    def _rotation(self, parts: tuple[Part, ...]) -> str:
        """Whether the input is rotated first, for all matrices or for some."""
        infos = [self.weights.find(part.weight.name) for part in parts]
        rotated = [info for info in infos if info is not None and info.scheme is not None and "rotate" in info.scheme.methods]
        if not rotated:
            return ""
        some = "" if len(rotated) == len(parts) else f" for {len(rotated)} of {len(parts)}"
        return f"rotated in blocks of {rotation_block(rotated[0].shape[-1])}{some}"

    def _attention(self, op: Attention) -> str:
        return _joined(
            [
                f"layer {op.layer}",
                f"{op.heads} heads on {op.kv_heads} of {op.head_dim}",
                op.rotary is not None and f"rotary {2 * len(op.rotary.frequencies)}",
                op.window is not None and f"window {op.window}",
                op.alibi and "alibi",
                op.softcap is not None and f"capped at {op.softcap:g}",
                op.relative is not None and self._matrix(op.relative.table),
                op.q_norm is not None and f"queries: {self._norm(op.q_norm)}",
                op.k_norm is not None and f"keys: {self._norm(op.k_norm)}",
                not op.causal and "both ways",
            ]
        )

    def _experts(self, op: Experts) -> str:
        stacks = (self._matrix(WeightSlice(name)) for name in (op.gate_up, op.down))
        taken = f"{op.top_k} of {op.experts} experts"
        return _joined([self._norm(op.norm), self._matrix(op.router), *stacks, taken, op.activation])

    def _parts(self, parts: tuple[Part, ...]) -> Iterator[str]:
        """Each matrix; those beside the first are named by their last word where only that differs."""
        parent = f"{parts[0].weight.name.rpartition('.')[0]}."
        for index, part in enumerate(parts):
            text = self._matrix(part.weight) + (" + bias" if part.bias else "")
            yield text.replace(parent, "…", 1) if index and text.startswith(parent) else text

    def _matrix(self, weight: WeightSlice) -> str:
        info = self.weights.find(weight.name)
        shape = "missing" if info is None else "×".join(map(str, info.shape)) + f" {info.dtype}"
        rows = "" if (weight.begin, weight.end) == (0, -1) else f" rows {weight.begin}…{weight.end}"
        return f"{weight.name} {shape}{rows}{' transposed' if weight.transposed else ''}"


def _flow(source: str, out: str, *, accumulate: bool = False) -> str:
    return f"{source} → {'+' if accumulate else ''}{out}"


def _joined(words: Iterable[str | bool | int]) -> str:
    return ", ".join(str(word) for word in words if word)
