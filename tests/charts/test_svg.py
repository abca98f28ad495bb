"""SVG charts are well-formed, hold every point with its tooltip, and place equal factors at equal steps."""

import re
from xml.etree import ElementTree

import pytest

from kbit.charts.svg import Panel, Point, Series, standalone, svg_panel

NAMESPACE = "{http://www.w3.org/2000/svg}"


def _panel(*ys: float, **changes: object) -> Panel:
    points = tuple(Point(float(x), y, f"point <{x}> & more") for x, y in enumerate(ys))
    return Panel("A & B", "x", "y", (Series("one <1>", points),), **changes)  # type: ignore[arg-type]


def test_is_well_formed_and_escapes_text() -> None:
    root = ElementTree.fromstring(svg_panel(_panel(1.0, 10.0, 100.0, marked=Point(1.0, 10.0, "k = <4>"), baseline=(2.0, "16 & bits"))))
    titles = [element.text for element in root.iter(NAMESPACE + "title")]
    assert titles == [f"point <{x}> & more" for x in range(3)]
    texts = {element.text for element in root.iter(NAMESPACE + "text")}
    assert {"A & B", "one <1>", "k = <4>", "16 & bits", "x", "y"} <= texts


def test_equal_factors_are_equal_steps() -> None:
    root = ElementTree.fromstring(svg_panel(_panel(1.0, 10.0, 100.0)))
    line = next(iter(root.iter(NAMESPACE + "polyline"))).attrib["points"]
    heights = [float(place.split(",")[1]) for place in line.split()]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("ys", [(1.0,), (5.0, 5.0), (0.0, 1.0, float("inf")), (1e-5, 1e5), (48.2, 48.9)])
def test_draws_whatever_comes(ys: tuple[float, ...]) -> None:
    text = svg_panel(_panel(*ys))
    ElementTree.fromstring(text)
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_points_above_the_ceiling_are_counted_and_the_rest_fills_the_chart() -> None:
    root = ElementTree.fromstring(svg_panel(_panel(1e6, 12.0, 10.0, ceiling=13.0)))
    assert "above the top: 1" in {element.text for element in root.iter(NAMESPACE + "text")}
    line = next(iter(root.iter(NAMESPACE + "polyline"))).attrib["points"]
    heights = [float(place.split(",")[1]) for place in line.split()]
    assert heights[0] < 0  # clipped by the inner svg
    assert heights[2] - heights[1] > 100


def test_ticks_are_a_handful_of_round_numbers() -> None:
    def ticks(*ys: float) -> list[str]:
        root = ElementTree.fromstring(svg_panel(_panel(*ys)))
        return [str(element.text) for element in root.iter(NAMESPACE + "text") if element.attrib.get("text-anchor") == "end"]

    assert ticks(47.0, 55.0) == ["48", "50", "52", "54"]
    assert ticks(1e-4, 1.0) == ["1e-4", "0.001", "0.01", "0.1", "1"]


def test_nothing_to_draw_is_said() -> None:
    assert "nothing to draw" in svg_panel(_panel(0.0))


def test_standalone_has_its_style_and_refers_to_nothing_outside() -> None:
    text = standalone([_panel(1.0, 2.0), _panel(3.0, 4.0)])
    root = ElementTree.fromstring(text)
    assert len(list(root.iter(NAMESPACE + "style"))) == 1
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_logarithmic_x_has_equal_steps_and_short_ticks() -> None:
    points = tuple(Point(x, 2.0 + at, "") for at, x in enumerate((1e6, 1e8, 1e10)))
    root = ElementTree.fromstring(svg_panel(Panel("t", "x", "y", (Series("s", points),), log_x=True, legend=False)))
    line = next(iter(root.iter(NAMESPACE + "polyline"))).attrib["points"]
    across = [float(place.split(",")[0]) for place in line.split()]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    texts = {element.text for element in root.iter(NAMESPACE + "text")}
    assert {"1M", "1G"} <= texts
    assert "s" not in texts


def test_bands_and_styles() -> None:
    points = (Point(1.0, 2.0, "a"), Point(2.0, 3.0, "b"))
    curves = (
        Series("line", points, "line", 3, ((1.0, 1.5, 2.5), (2.0, 2.5, 3.5))),
        Series("marks", points, "marks", 3),
    )
    text = svg_panel(Panel("t", "x", "y", curves, y_ticks=(2, 3)))
    root = ElementTree.fromstring(text)
    (band,) = root.iter(NAMESPACE + "polygon")
    assert band.attrib["class"] == "band s3"
    assert len(band.attrib["points"].split()) == 4
    assert len(list(root.iter(NAMESPACE + "polyline"))) == 1
    assert len(list(root.iter(NAMESPACE + "title"))) == 2


@pytest.mark.parametrize("name", ["ab", "kbit, one scheme for all"])
def test_names_of_the_legend_end_within_the_chart(name: str) -> None:
    panel = Panel("t", "x", "y", (Series(name, (Point(0, 1, "p"), Point(1, 2, "q"))), Series("short", (Point(0, 1, "r"),))))
    root = ElementTree.fromstring(svg_panel(panel))
    starts = [float(element.attrib["x"]) for element in root.iter(NAMESPACE + "text") if element.text in (name, "short")]
    assert len(set(starts)) == 1
    assert starts[0] + 6.5 * len(name) <= 460
    assert starts[0] <= 460 - 14 - 66
