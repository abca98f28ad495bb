import math

import numpy as np
import pytest
from scipy import stats

from kbit.core.errors import ShapeError
from kbit.evaluate.intervals import MAX_CHUNKS, Estimate, chunk_sums, exponential, quantile_estimate, ratio_estimate, student_t


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 7, 30, 63, 64, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_t_is_scipys(confidence: float, degrees: int) -> None:
    assert student_t(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_student_t_refuses_nonsense() -> None:
    with pytest.raises(ShapeError):
        student_t(0.95, 0)
    with pytest.raises(ShapeError):
        student_t(1.0, 5)


def test_chunks_keep_every_window_and_differ_by_one_at_most() -> None:
    for windows in (1, 2, MAX_CHUNKS - 1, MAX_CHUNKS, MAX_CHUNKS + 1, 1000):
        sizes = chunk_sums(np.ones(windows))
        assert sizes.size == min(windows, MAX_CHUNKS)
        assert sizes.sum() == windows
        assert sizes.max() - sizes.min() <= 1
    values = np.random.default_rng(0).normal(size=333)
    assert chunk_sums(values).sum() == pytest.approx(values.sum())
    with pytest.raises(ShapeError):
        chunk_sums([])


def test_equal_counts_give_the_plain_t_interval_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, size=20)
    estimate = ratio_estimate(values * 7, np.full(20, 7))
    low, high = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_window_gives_no_interval() -> None:
    assert ratio_estimate([4.0], [2]) == Estimate(2.0)
    assert quantile_estimate([1.0, 2.0, 3.0], [0, 0, 0], 0.5) == Estimate(2.0)


def test_intervals_cover_the_truth_of_correlated_texts() -> None:
    """A text: windows of differing length whose mean loss wanders, so that tokens of a window are not independent."""
    random = np.random.default_rng(2)
    inside_mean = inside_median = naive = 0
    rounds = 300
    for _ in range(rounds):
        counts = random.integers(20, 60, size=40)
        owner = np.repeat(np.arange(40), counts)
        tokens = 3.0 + random.normal(0, 0.7, size=40)[owner] + random.normal(0, 1.0, size=owner.size)
        estimate = ratio_estimate(np.bincount(owner, tokens), counts)
        median = quantile_estimate(tokens, owner, 0.5)
        assert estimate.low is not None
        assert estimate.high is not None
        assert median.low is not None
        assert median.high is not None
        inside_mean += estimate.low <= 3.0 <= estimate.high
        inside_median += median.low <= 3.0 <= median.high
        naive += abs(tokens.mean() - 3.0) <= 1.96 * stats.sem(tokens)
    # 95 % of 300 is 285 with a standard deviation of 3.8
    assert 272 <= inside_mean <= 297
    assert 270 <= inside_median <= 299
    assert naive < 200  # what ignoring the windows would have claimed: the test can tell


def test_chunks_widen_the_interval_when_neighbouring_windows_agree() -> None:
    slow = np.repeat(np.random.default_rng(3).normal(size=40), 16)  # 640 windows in runs of 16
    joined = ratio_estimate(slow, np.ones(640))
    assert joined.low is not None
    assert joined.high is not None
    assert joined.high - joined.low > 2 * 2 * 1.96 * stats.sem(slow) / 1.5


def test_quantiles_by_hand() -> None:
    values = np.arange(1, 1001, dtype=float)
    owner = np.repeat(np.arange(50), 20)
    shuffled = np.random.default_rng(4).permutation(values)
    for share, expected in ((0.5, 500.0), (0.99, 990.0), (0.0, 1.0), (1.0, 1000.0)):
        assert quantile_estimate(shuffled, owner, share).value == expected
    estimate = quantile_estimate(shuffled, owner, 0.5)
    assert estimate.low is not None
    assert estimate.high is not None
    # independent values: the share below the median has standard error √(1/4/1000)
    assert estimate.high - estimate.low == pytest.approx(2 * 2.0 * 1000 * math.sqrt(0.25 / 1000), rel=0.3)


def test_tail_beyond_the_sample_has_no_upper_bound() -> None:
    values = np.random.default_rng(5).exponential(size=500)
    estimate = quantile_estimate(values, np.repeat(np.arange(10), 50), 0.999)
    assert estimate.high is None
    assert estimate.low is not None
    assert estimate.low <= estimate.value == values.max()
    assert "…" in estimate.format()


def test_equal_values_give_an_interval_of_no_width() -> None:
    owner = np.repeat(np.arange(4), 5)
    assert quantile_estimate(np.zeros(20), owner, 0.99) == Estimate(0.0, 0.0, 0.0)


def test_exponential_and_clipping_and_text() -> None:
    estimate = Estimate(1.0, 0.0, 2.0)
    assert exponential(estimate) == Estimate(math.e, 1.0, math.exp(2.0))
    assert exponential(Estimate(1e4)) == Estimate(math.inf)
    assert Estimate(0.99, 0.97, 1.01).clipped(0, 1) == Estimate(0.99, 0.97, 1)
    assert Estimate(0.99).clipped(0, 1) == Estimate(0.99)
    assert estimate.format(".1f") == "1.0 [0.0, 2.0]"
    assert Estimate(1.0).format(".1f") == "1.0"
    assert estimate.to_json() == [0.0, 2.0]
