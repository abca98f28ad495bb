"""Bytes of a model in k bits from its configuration alone: weights, cache of keys and values, workspace, and what a token reads.

The engine's own plan is made over weights that are not there: every name it asks for is noted with its shape. Packed parts are then those
that `kbit quantize` would store (`part_bytes`), tied weights once, so the sum is that of the files without their headers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kbit.core.errors import ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.core.registry import suggest
from kbit.core.scheme import Scheme
from kbit.engine.architectures import ENCODER_DECODER_TYPES, describe
from kbit.engine.builder import Builder
from kbit.engine.cache import PAGE_POSITIONS, CacheFormat
from kbit.engine.ops import Embed, Experts, ForwardPlan, Linear
from kbit.engine.traffic import weight_bytes_per_token
from kbit.engine.weights import ModelWeights, WeightInfo
from kbit.native import _kbit
from kbit.tensor.quantized import part_bytes

__all__ = ["PROCESS_BYTES", "Footprint", "ModelShape", "packed_size"]

#: memory of a process that runs the engine, besides weights, cache and workspace (measured: 45 to 46 MB with the workspace of a 1B model)
PROCESS_BYTES = 40_000_000
#: rows of the engine's workspace: see `kbit.engine.engine.Engine`
_ROWS = 512
#: what threads have of their own
_OWN_BYTES = 1 << 20
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

Kind = Literal["linear", "embedding", "head", "experts", "plain"]


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    kind: Kind
    shape: tuple[int, ...]


class _Asked(ModelWeights):
    """Weights that are all there, in the shape they are asked for; what is tied is not."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def find(self, name: str) -> WeightInfo | None:
        """Nothing, so that the usual spelling is taken and a tied head is the embedding."""
        return None

    def info(self, name: str, shape: Sequence[int]) -> WeightInfo:
        """The weight as it was asked for."""
        self.shapes[name] = tuple(shape)
        return WeightInfo(name, name, tuple(shape), None, "", 0)


class _Sized(ModelWeights):
    """The same, with the bytes that a plan of schemes stores for each."""

    def __init__(self, sizes: Mapping[str, tuple[tuple[int, ...], int]]) -> None:
        self.sizes = sizes

    def find(self, name: str) -> WeightInfo | None:
        """The weight with its size."""
        if name not in self.sizes:
            return None
        shape, size_bytes = self.sizes[name]
        return WeightInfo(name, name, shape, None, "", size_bytes)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a model under a plan.

    Attributes:
        weight_bytes: all tensors as stored, headers left out.
        kv_bytes: the cache for `context` positions.
        workspace_bytes: what a step works in.
        read_bytes: weights that one token reads.
        bpw: bits a weight of what is packed, padding and scales counted; 16 or 32 where nothing is.
        context: positions.
    """

    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int
    read_bytes: int
    bpw: float
    context: int

    @property
    def total_bytes(self) -> int:
        """Memory that running takes: weights, cache, workspace and the process."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes + PROCESS_BYTES


class ModelShape:
    """What a configuration says of a decoder's tensors.

    Args:
        config: the `config.json`.
        source: names it in messages.

    Attributes:
        plan: the forward step.
        params: all weights, tied ones once.
        multiply_adds: of one token.
        layers, hidden_size, context: as the configuration has them; a context of 0 is none of its own.

    Raises:
        ModelError: an architecture that the engine does not know, or no decoder.
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        if config.get("model_type") in ENCODER_DECODER_TYPES:
            raise ModelError(f"{source}: expected a decoder, got {config.get('model_type')!r}, an encoder with a decoder")
        asked = _Asked()
        architecture = describe(config)
        if not architecture.causal:
            raise ModelError(f"{source}: expected a decoder, got {architecture.name}, an encoder")
        self.plan: ForwardPlan = Builder(architecture, asked, ()).build()
        self._tensors = tuple(_tensors(self.plan, asked.shapes))
        self._plain_bytes = _DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"), 2)
        self.params = sum(math.prod(tensor.shape) for tensor in self._tensors)
        self.layers, self.hidden_size, self.context = self.plan.layers, architecture.size, architecture.context
        self.multiply_adds = _multiply_adds(self.plan, asked.shapes)

    def footprint(self, plan: Plan, context: int, cache: CacheFormat = "fp16") -> Footprint:
        """Bytes under a plan of schemes.

        Args:
            plan: schemes by module; `Plan.of` of a text leaves embedding and head in 16 bits, as `kbit quantize` does.
            context: positions of the cache, one sequence.
            cache: how it keeps keys and values.

        Raises:
            SchemeError: an unknown cache format. ModelError: a context longer than the model knows.
        """
        if self.context and context > self.context:
            raise ModelError(f"{self.plan.architecture}: expected a context of at most {self.context} positions, got {context}")
        sizes: dict[str, tuple[tuple[int, ...], int]] = {}
        packed_bytes = packed_weights = 0
        for tensor in self._tensors:
            size, is_packed = self._size(tensor, plan)
            sizes[tensor.name] = (tensor.shape, size)
            packed_bytes += size * is_packed
            packed_weights += math.prod(tensor.shape) * is_packed
        weight_bytes = sum(size for _, size in sizes.values())
        return Footprint(
            weight_bytes=weight_bytes,
            kv_bytes=self._kv_bytes(context, cache),
            workspace_bytes=_workspace(self.plan, max(shape[-1] for shape, _ in sizes.values())),
            read_bytes=weight_bytes_per_token(self.plan, _Sized(sizes)),
            bpw=8 * packed_bytes / packed_weights if packed_weights else 8.0 * self._plain_bytes,
            context=context,
        )

    def _size(self, tensor: _Tensor, plan: Plan) -> tuple[int, bool]:
        if tensor.kind != "plain":
            scheme = plan.scheme_for(tensor.name, tensor.kind)
            if not scheme.is_none:
                return packed_size(scheme, tensor.shape), True
        return math.prod(tensor.shape) * self._plain_bytes, False

    def _kv_bytes(self, context: int, cache: CacheFormat) -> int:
        formats = get_args(CacheFormat)
        if cache not in formats:
            raise SchemeError(f"unknown cache format {cache!r}: {suggest(cache, formats)}")
        page = _kbit.Cache(self.plan.layers, self.plan.kv_heads, self.plan.head_dim, formats.index(cache), 1).page_bytes()
        return -(-context // PAGE_POSITIONS) * int(page)


def packed_size(scheme: Scheme, shape: tuple[int, ...]) -> int:
    """Bytes stored for a weight [rows, cols] or [matrices, rows, cols] under a scheme."""
    return sum(part_bytes(scheme.for_row(shape[-1]), shape).values())


def _tensors(plan: ForwardPlan, shapes: Mapping[str, tuple[int, ...]]) -> list[_Tensor]:
    kinds: dict[str, Kind] = {}
    for op in plan.ops:
        if isinstance(op, Embed):
            kinds[op.table.name] = "embedding"
        elif isinstance(op, Experts):
            kinds |= {op.gate_up: "experts", op.down: "experts"}
        elif isinstance(op, Linear):
            for part in op.parts:
                kinds.setdefault(part.weight.name, "head" if op.out == plan.result else "linear")
    return [_Tensor(name, kinds.get(name, "plain"), shape) for name, shape in shapes.items()]


def _multiply_adds(plan: ForwardPlan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    total = 0
    for op in plan.ops:
        if isinstance(op, Linear):
            total += sum(_rows(part.weight.begin, part.weight.end, shapes[part.weight.name]) for part in op.parts)
        elif isinstance(op, Experts):
            total += op.top_k * sum(math.prod(shapes[name][1:]) for name in (op.gate_up, op.down))
    return total


def _rows(begin: int, end: int, shape: tuple[int, ...]) -> int:
    return ((shape[0] if end < 0 else end) - begin) * shape[-1]


def _workspace(plan: ForwardPlan, widest: int) -> int:
    """Buffers of the engine's rows, the normed input beside them, and two copies of it in int8 with their scales and sums."""
    buffers = sum(width for name, width in plan.buffers.items() if name != plan.result)
    quantized = widest + 8 * -(-widest // 32)
    experts = [op for op in plan.ops if isinstance(op, Experts)]
    gathered = max((op.top_k * plan.buffers[op.source] * 2 for op in experts), default=0)
    return _ROWS * (4 * (buffers + widest + gathered) + 2 * quantized) + _OWN_BYTES
