"""What each operation computes, in plain numpy and float32: the formulas of `kbit.engine.ops`, written to be read.

Rows are tokens; every function takes [rows, width] and answers with as many rows. Sums are numpy's: results agree with the native step's
to rounding, not byte for byte.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from kbit.engine.ops import Activation, Attention, Norm, Rotary

__all__ = ["ACTIVATIONS", "alibi_slopes", "attend", "normalize", "rotate", "route", "softcap", "softmax"]

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


def attend(op: Attention, q: Rows, k: Rows, v: Rows, start: int) -> Rows:
    """Attention of one sequence.

    Args:
        op: the operation.
        q: queries [rows, heads, head_dim] at positions `start` and on, rotated.
        k: keys [positions, kv_heads, head_dim] of the sequence from position 0.
        v: its values, likewise.
        start: position of the first query.

    Returns:
        [rows, heads · head_dim].
    """
    group = op.heads // op.kv_heads
    k, v = (np.repeat(part, group, axis=1).transpose(1, 0, 2) for part in (k, v))
    scores = softcap(np.float32(op.scale) * (q.transpose(1, 0, 2) @ k.transpose(0, 2, 1)), op.softcap)
    distance = np.arange(k.shape[1]) - (start + np.arange(len(q)))[:, None]
    if op.alibi:
        scores = scores + alibi_slopes(op.heads)[:, None, None] * distance.astype(np.float32)
    hidden = np.zeros(distance.shape, bool)
    if op.causal:
        hidden |= distance > 0
    if op.window is not None:
        hidden |= distance <= -op.window
    mixed = softmax(np.where(hidden, np.float32(-np.inf), scores)) @ v
    return np.ascontiguousarray(mixed.transpose(1, 0, 2)).reshape(len(q), -1)


def route(logits: Rows, top_k: int, *, normalize: bool) -> tuple[NDArray[np.int64], Rows]:
    """The experts of each row, most likely first, and their weights: both [rows, top_k]."""
    likely = softmax(logits)
    chosen = np.argsort(-likely, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(likely, chosen, axis=1)
    return chosen, weights / weights.sum(axis=1, keepdims=True) if normalize else weights
