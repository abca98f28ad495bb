import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders import sample
from kbit.encoders.sample import LevelSample
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import BlockLayout


def collect(weights, group_size=16, importance=None, step=16):
    rows, cols = weights.shape
    collector = LevelSample(1, BlockLayout.of(Scheme.parse(f"kmeans4:g{group_size}"), rows, cols))
    for begin in range(0, rows, step):
        piece = importance[begin : begin + step] if importance is not None and importance.ndim == 2 else importance
        collector.add(0, begin, weights[begin : begin + step], piece)
    return collector.collected()


def random(rows, cols, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def test_small_tensors_are_taken_whole_each_group_by_its_extreme():
    weights = random(5, 40)
    expected = []
    for row in weights:
        for begin in range(0, 40, 16):
            group = row[begin : begin + 16]
            expected.append(group / group[np.abs(group).argmax()])
    values, importance = collect(weights)
    assert importance is None
    assert np.array_equal(values, np.concatenate(expected))
    assert values.max() == 1
    assert values.min() >= -1


def test_a_tie_is_positive_and_zeros_are_left_out():
    weights = np.zeros((2, 16), np.float32)
    weights[1, :2] = -2, 2
    values, _ = collect(weights)
    assert values.tolist() == [-1, 1] + [0] * 14
    assert collect(np.zeros((3, 16), np.float32))[0].tolist() == [0]


@pytest.mark.parametrize("limit", [100, 333, 1000])
def test_large_tensors_are_thinned_evenly(monkeypatch, limit):
    monkeypatch.setattr(sample, "SAMPLE_SIZE", limit)
    weights = random(64, 96)
    values, _ = collect(weights)
    assert limit / 4 <= values.size <= limit + 16
    # group g of column block c is one of 6: with a stride prime to 6, all blocks are met
    marked = np.tile(np.repeat(np.arange(1, 7, dtype=np.float32), 16), (64, 1)) * np.linspace(0.1, 1, 16, dtype=np.float32).repeat(6)
    importance = np.repeat(np.arange(1.0, 7, dtype=np.float32), 16)
    assert set(collect(marked, importance=importance)[1].tolist()) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("limit", [200, 1 << 20])
def test_pieces_do_not_matter(monkeypatch, limit):
    monkeypatch.setattr(sample, "SAMPLE_SIZE", limit)
    weights, importance = random(64, 100), np.abs(random(64, 100, 1))
    whole = collect(weights, importance=importance, step=64)
    for step in (16, 32, 48):
        pieces = collect(weights, importance=importance, step=step)
        assert np.array_equal(pieces[0], whole[0])
        assert np.array_equal(pieces[1], whole[1])


def test_importance_stays_with_its_weight():
    weights = np.abs(random(4, 40)) + np.float32(0.1)
    weights[:, ::16] = 8  # extreme of every group
    values, importance = collect(weights, importance=weights)
    assert np.array_equal(values, importance / 8)
    values, importance = collect(weights, importance=np.arange(40, dtype=np.float32))
    assert np.array_equal(importance, np.tile(np.arange(40), 4))


def test_very_long_groups_are_thinned_inside(monkeypatch):
    monkeypatch.setattr(sample, "_GROUP_SAMPLE", 10)
    weights = random(1, 95)
    values, _ = collect(weights, group_size=-1)
    assert np.array_equal(values, (weights[0] / weights[0][np.abs(weights[0]).argmax()])[::10])


def test_bfloat16_bits_are_read():
    weights = random(4, 32)
    bits = BFloat16.from_float32(weights)
    assert np.array_equal(collect(bits.bits)[0], collect(bits.to_float32())[0])
