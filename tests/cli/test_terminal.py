"""The terminal chart: every point is there, at the height of its value, within 80 columns."""

import pytest

from kbit.cli.plots import terminal_chart
from kbit.cli.terminal import Line, braille_chart
from kbit.cli.tradeoff import Row, recommend


def _body(chart: str) -> list[str]:
    return [line for line in chart.splitlines() if "│" in line or "|" in line]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_fits_80_columns_and_shows_every_point(ascii_only: bool, demo_rows: list[Row]) -> None:
    chart = terminal_chart(demo_rows, recommend(demo_rows), ascii_only=ascii_only)
    assert max(map(len, chart.splitlines())) <= 80
    letters = "".join(line.split("|" if ascii_only else "│")[1] for line in _body(chart))
    assert {letter: letters.count(letter) for letter in "ifnlk"} == dict.fromkeys("ifnlk", 7)
    assert letters.count("#" if ascii_only else "◆") == 1
    assert chart.isascii() == ascii_only


def test_higher_values_stand_higher_and_further_right() -> None:
    chart = braille_chart([Line("a", "a", ((1.0, 1.0), (2.0, 10.0), (3.0, 100.0)))], x_label="x", y_label="y", ascii_only=True)
    places = [(row, line.index("a", line.index("|"))) for row, line in enumerate(_body(chart)) if "a" in line.split("|")[1]]
    rows, columns = zip(*places, strict=True)
    assert len(places) == 3
    assert list(columns) == sorted(columns, reverse=True)  # the top row is read first
    assert abs((rows[0] + rows[2]) / 2 - rows[1]) <= 1  # equal factors, equal steps


def test_y_ticks_stand_beside_their_values() -> None:
    chart = braille_chart([Line("a", "a", ((1.0, 0.1), (2.0, 1.0), (3.0, 10.0)))], x_label="x", y_label="y", ascii_only=True)
    for value in ("0.1", "1", "10"):
        line = next(line for line in _body(chart) if line.split("|")[0].strip() == value)
        assert "a" in line.split("|")[1]


def test_points_in_one_cell_stand_side_by_side() -> None:
    lines = [Line(letter, letter, ((1.0, 1.0), (2.0, 100.0))) for letter in "xyz"]
    assert "xyz" in braille_chart(lines, x_label="", y_label="", ascii_only=True)


def test_zero_and_infinite_values_are_left_out() -> None:
    chart = braille_chart([Line("a", "a", ((1.0, 0.0), (2.0, 1.0), (3.0, float("inf"))))], x_label="x", y_label="y", ascii_only=True)
    assert sum(line.split("|")[1].count("a") for line in _body(chart)) == 1
    assert braille_chart([Line("a", "a", ())], x_label="x", y_label="y") == "(nothing to draw)"
