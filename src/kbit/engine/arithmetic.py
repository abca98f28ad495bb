"""What each operation computes, in plain numpy and float32: the formulas of `kbit.engine.ops`, written to be read.

Rows are tokens; every function takes [rows, width] and answers with as many rows. Sums are numpy's: results agree with the native step's
to rounding, not byte for byte.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from kbit.engine.ops import Activation, Attention, Norm, Rotary

__all__ = [
    "ACTIVATIONS",
    "alibi_slopes",
    "attend",
    "attend_all",
    "normalize",
    "relative_buckets",
    "rotate",
    "route",
    "softcap",
    "softmax",
    "waves",
]

Rows = NDArray[np.float32]

_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: Rows) -> Rows:
    return np.asarray(x * 0.5 * (1 + _erf(x / np.float32(math.sqrt(2))).astype(np.float32)), np.float32)


def _gelu_tanh(x: Rows) -> Rows:
    return np.asarray(0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + 0.044715 * x * x * x))), np.float32)


def _sigmoid(x: Rows) -> Rows:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))), np.float32)


ACTIVATIONS: Mapping[Activation, Callable[[Rows], Rows]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * _sigmoid(np.float32(1.702) * x),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}


def normalize(x: Rows, norm: Norm, weight: Rows | None, bias: Rows | None) -> Rows:
    """`norm` over the last dimension of x, with its vectors."""
    centred = x - x.mean(axis=-1, keepdims=True) if norm.kind == "layer" else x
    y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(norm.eps))
    if weight is not None:
        y = y * (weight + 1 if norm.plus_one else weight)
    return np.asarray(y if bias is None else y + bias, np.float32)


def rotate(x: Rows, positions: NDArray[np.int64], rotary: Rotary) -> Rows:
    """Heads [rows, heads, head_dim] rotated by their rows' positions; dimensions beyond the frequencies stay."""
    count = len(rotary.frequencies)
    angles = positions[:, None].astype(np.float32) * np.array(rotary.frequencies, np.float32)
    cos, sin = (np.float32(rotary.factor) * f(angles)[:, None, :] for f in (np.cos, np.sin))
    first, second = (slice(0, 2 * count, 2), slice(1, 2 * count, 2)) if rotary.interleaved else (slice(0, count), slice(count, 2 * count))
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def softcap(x: Rows, cap: float | None) -> Rows:
    """Cap · tanh(x / cap), or x for no cap."""
    return x if cap is None else np.float32(cap) * np.tanh(x / np.float32(cap))


def softmax(scores: Rows) -> Rows:
    """Over the last dimension; scores of -inf get 0."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), np.float32)


def alibi_slopes(heads: int) -> Rows:
    """Slope of each head: a geometric sequence for powers of two, filled up with every other slope of the next one (Press et al. 2022)."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2.0 ** (-8 * (2 * head + 1) / (2 * power)) for head in range(heads - power)]
    return np.array(slopes, np.float32)


def relative_buckets(distance: NDArray[np.int64], buckets: int, longest: int, *, both_ways: bool) -> NDArray[np.int64]:
    """Bucket of each distance, key − query (T5; see `Relative`): half of a side's buckets are exact, the others grow geometrically."""
    side = buckets // 2 if both_ways else buckets
    upper = np.where(distance > 0, side, 0) if both_ways else 0
    far = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    exact = side // 2
    growth = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(longest / exact))
    grown = np.minimum(exact + (growth * np.float32(side - exact)).astype(np.int64), side - 1)
    return np.asarray(upper + np.where(far < exact, far, grown), np.int64)


def waves(positions: NDArray[np.int64], frequencies: tuple[float, ...]) -> Rows:
    """Sinusoidal positions, sines first: [rows, 2 · frequencies]."""
    angles = positions[:, None] * np.array(frequencies, np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def attend(op: Attention, q: Rows, k: Rows, v: Rows, start: int, biases: Rows | None = None) -> Rows:
    """Attention of one sequence.

    Args:
        op: the operation.
        q: queries [rows, heads, head_dim] at positions `start` and on, rotated.
        k: keys [positions, kv_heads, head_dim] of the sequence from position 0.
        v: its values, likewise.
        start: position of the first query.
        biases: table of `op.relative`, [buckets, heads].

    Returns:
        [rows, heads · head_dim].
    """
    scores = softcap(_scores(q, k, op.scale), op.softcap)
    distance = np.arange(len(k)) - (start + np.arange(len(q)))[:, None]
    if op.alibi:
        scores = scores + alibi_slopes(op.heads)[:, None, None] * distance.astype(np.float32)
    if op.relative is not None and biases is not None:
        buckets = relative_buckets(distance, op.relative.buckets, op.relative.longest, both_ways=not op.causal)
        scores = scores + biases[buckets].transpose(2, 0, 1)
    hidden = np.zeros(distance.shape, bool)
    if op.causal:
        hidden |= distance > 0
    if op.window is not None:
        hidden |= distance <= -op.window
    return _mix(np.where(hidden, np.float32(-np.inf), scores), v)


def attend_all(q: Rows, k: Rows, v: Rows, scale: float) -> Rows:
    """Attention of queries over all keys, as `attend` without positions."""
    return _mix(_scores(q, k, scale), v)


def _scores(q: Rows, k: Rows, scale: float) -> Rows:
    """Scores [heads, rows, positions] of queries [rows, heads, d] and keys [positions, kv_heads, d]."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return np.asarray(np.float32(scale) * (q.transpose(1, 0, 2) @ k.transpose(1, 2, 0)), np.float32)


def _mix(scores: Rows, v: Rows) -> Rows:
    """Values [positions, kv_heads, d] weighted by the softmax of scores: [rows, heads · d]."""
    v = np.repeat(v, scores.shape[0] // v.shape[1], axis=1).transpose(1, 0, 2)
    mixed = softmax(scores) @ v
    return np.ascontiguousarray(mixed.transpose(1, 0, 2)).reshape(scores.shape[1], -1)


def route(logits: Rows, top_k: int, *, normalize: bool) -> tuple[NDArray[np.int64], Rows]:
    """The experts of each row, most likely first, and their weights: both [rows, top_k]."""
    likely = softmax(logits)
    chosen = np.argsort(-likely, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(likely, chosen, axis=1)
    return chosen, weights / weights.sum(axis=1, keepdims=True) if normalize else weights
