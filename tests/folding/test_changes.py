"""One tensor's change against matrices written out."""

import numpy as np
import pytest

from kbit.folding import changes
from kbit.folding.changes import Change, Gain, Heads, fold_importance

from .test_turn import matrix_of

DRAW = np.random.default_rng(0)


def rows_matrix(count: int, heads: Heads) -> np.ndarray:
    out = np.eye(count)
    for begin in heads.begins:
        out[begin : begin + heads.size, begin : begin + heads.size] = matrix_of(heads.size)
    return out


@pytest.mark.parametrize("piece", [64, 1 << 22])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [(), (Heads(16, (0, 48)),), (Heads(16, (0, 48)), Heads(32, (16,)))])
@pytest.mark.parametrize("cols", [0, 48])
def test_matrices_written_out(cols: int, rows: tuple[Heads, ...], transposed: bool, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_PIECE", piece)
    weight = DRAW.standard_normal((3, 70, 96)).astype(np.float32)
    gain = DRAW.standard_normal(96)
    expected = weight.astype(np.float64)
    if cols:
        expected = expected * gain @ np.kron(np.eye(96 // cols), matrix_of(cols)).T
    for heads in rows:
        expected = rows_matrix(70, heads) @ expected
    change = Change(cols=cols, gain=Gain("norm.weight") if cols else None, rows=rows, transposed=transposed)
    given = weight.swapaxes(1, 2) if transposed else weight
    found = change.apply(given, gain if cols else None)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.swapaxes(1, 2) if transposed else found, expected, rtol=1e-6, atol=1e-6)
    one = change.apply(given[1], gain if cols else None)
    assert np.array_equal(one, found[1])


def test_vectors_and_norms() -> None:
    bias = DRAW.standard_normal(70).astype(np.float32)
    heads = Heads(16, (32,))
    np.testing.assert_allclose(Change(rows=(heads,)).apply(bias), rows_matrix(70, heads) @ bias, atol=1e-6)
    assert np.array_equal(Change(fill=1.0).apply(bias), np.ones(70, np.float32))
    assert np.array_equal(Gain("norm.weight", plus_one=True).of(bias), bias.astype(np.float64) + 1)


def test_two_changes_of_one_tensor() -> None:
    reads, writes = Change(cols=48, gain=Gain("norm.weight"), transposed=True), Change(rows=(Heads(16, (0,)),), transposed=True)
    for both in (reads.with_other(writes), writes.with_other(reads)):
        assert both == Change(cols=48, gain=Gain("norm.weight"), rows=(Heads(16, (0,)),), transposed=True)


def test_importance_follows_its_inputs() -> None:
    inputs = DRAW.standard_normal((20_000, 96)) * DRAW.uniform(0.1, 3, 96)
    gain = DRAW.uniform(0.5, 2, 96)
    gain[5] = 0
    seen = inputs * gain  # what the original matrix gets
    turned = np.where(gain == 0, 0, inputs) @ np.kron(np.eye(2), matrix_of(48)).T
    found = fold_importance(Change(cols=48), np.square(seen).mean(0).astype(np.float32), gain)
    np.testing.assert_allclose(found, np.square(turned).mean(0), rtol=0.05)
    stack = fold_importance(Change(cols=48), np.ones((3, 96), np.float32), None)
    assert np.array_equal(stack, np.ones((3, 96), np.float32))
