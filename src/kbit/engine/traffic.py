"""What a token costs: the bytes of weights that a forward step reads for one row."""

from kbit.engine.ops import Attention, Embed, Experts, ForwardPlan, Linear, Norm, Op, WeightSlice
from kbit.engine.weights import ModelWeights

__all__ = ["weight_bytes_per_token"]


def weight_bytes_per_token(plan: ForwardPlan, weights: ModelWeights) -> int:
    """Bytes of weights read for one token.

    Matrices that are used twice count once; an embedding counts one row, unless it is the head too; of a stack of experts, those that a
    token is sent to.
    """
    read: dict[str, float] = {}

    def add(name: str | None, share: float) -> None:
        info = None if name is None else weights.find(name)
        if info is not None:
            read[info.owner] = max(read.get(info.owner, 0.0), info.size_bytes * share)

    for op in plan.ops:
        match op:
            case Embed():
                add(op.table.name, 1 / _rows(weights, op.table))
            case Linear():
                for part in op.parts:
                    add(part.weight.name, 1.0)
                    add(part.bias, 1.0)
            case Experts():
                add(op.router.name, 1.0)
                for stack in (op.gate_up, op.down):
                    add(stack, op.top_k / op.experts)
            case _:
                pass
        for norm in _norms(op):
            add(norm.weight, 1.0)
            add(norm.bias, 1.0)
    return round(sum(read.values()))


def _rows(weights: ModelWeights, table: WeightSlice) -> int:
    info = weights.find(table.name)
    return 1 if info is None else info.shape[0]


def _norms(op: Op) -> list[Norm]:
    if isinstance(op, Attention):
        return [norm for norm in (op.q_norm, op.k_norm) if norm is not None]
    norm = getattr(op, "norm", None)
    return [] if norm is None else [norm]
