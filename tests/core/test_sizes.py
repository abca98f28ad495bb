import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbit.core.sizes import bytes_text, count_text


@given(st.integers(0, 10**14))
def test_sizes_are_short_and_true(size):
    number, unit = bytes_text(size).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(size, rel=0.006, abs=0.5)
    assert len(number) <= 4


def test_a_size_is_not_a_thousand_of_the_smaller_unit():
    assert bytes_text(999_600_000) == "1 GB"
    assert bytes_text(999) == "999 B"
    assert bytes_text(2_627_832) == "2.63 MB"


def test_one_and_many():
    assert [count_text(count, "file") for count in (0, 1, 2, 1000)] == ["0 files", "1 file", "2 files", "1,000 files"]
