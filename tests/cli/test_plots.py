"""The files that the demo draws."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kbit.cli.plots import panels, write_png, write_svg
from kbit.cli.tradeoff import Row, recommend


def test_panels_hold_every_row_and_the_recommended_one(demo_rows: list[Row]) -> None:
    chosen = recommend(demo_rows)
    loss, size = panels(demo_rows, chosen)
    for panel in (loss, size):
        assert [series.name for series in panel.series] == ["linear", "float", "normal", "log", "k-means"]
        assert all(len(series.points) == 7 for series in panel.series)
    assert loss.marked is not None
    assert (loss.marked.x, loss.marked.y) == (chosen.row.bpw, chosen.row.kl_mean)
    assert size.baseline is not None
    assert size.baseline[0] == pytest.approx(48.0)


def test_svg_file_is_an_svg(tmp_path: Path, demo_rows: list[Row]) -> None:
    write_svg(tmp_path / "a.svg", panels(demo_rows, recommend(demo_rows)))
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_png_file_is_a_png(tmp_path: Path, demo_rows: list[Row]) -> None:
    pytest.importorskip("matplotlib")
    assert write_png(tmp_path / "a.png", panels(demo_rows, recommend(demo_rows)))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_png_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_rows: list[Row]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert not write_png(tmp_path / "a.png", panels(demo_rows, recommend(demo_rows)))
    assert not (tmp_path / "a.png").exists()
