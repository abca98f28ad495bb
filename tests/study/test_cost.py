from dataclasses import replace

import pytest
from tests.study.test_cell import CELL, SPEED

from kbit.study.cost import cell_gmacs, measured_rate, probe_rate


def test_work_grows_with_what_is_run() -> None:
    plain = cell_gmacs(replace(CELL, scheme="int3:g64", calibration_tokens=0), 0)
    assert plain == pytest.approx(10 * (64 + 200) / 1e9)
    assert cell_gmacs(replace(CELL, windows=0, scheme="int3:g64", calibration_tokens=0), 1000) == pytest.approx(10 * 1200 / 1e9)
    assert cell_gmacs(replace(CELL, params=20), 0) == pytest.approx(2 * cell_gmacs(CELL, 0))
    assert cell_gmacs(replace(CELL, calibration_tokens=1000), 0) > cell_gmacs(CELL, 0) > plain
    assert cell_gmacs(SPEED, 0) == pytest.approx(10 * 12 * 3 / 1e9)


def test_rates() -> None:
    assert probe_rate() > 0
    assert measured_rate([(1.0, 2.0)] * 4) is None
    assert measured_rate([(1.0, 2.0)] * 4 + [(1.0, 100.0)]) == 0.5
