"""What `kbit show --errors` finds out about weights, and the page it draws."""

import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kbit.cli.inspection import Histogram, histogram, inspect, layer_of
from kbit.cli.originals import Original
from kbit.cli.pictures import heat_map, level_histogram, stacked_bars
from kbit.store.folder import open_model


def test_figures_are_those_of_the_weights(packed_model: Path, tiny_model: Path) -> None:
    torch_file = pytest.importorskip("safetensors.torch")
    weights = torch_file.load_file(tiny_model / "model.safetensors")
    with open_model(packed_model) as stored:
        found = list(inspect(stored, Original(str(tiny_model))))
        plain = list(inspect(stored))
    assert len(found) == len(plain) == 15
    for one, other in zip(found, plain, strict=True):
        values = weights[f"{one.name}.weight"].double().numpy()
        assert one.kurtosis == pytest.approx((values**4).mean() / (values**2).mean() ** 2, rel=1e-5)
        assert one.largest == pytest.approx(np.abs(values).max() / math.sqrt((values**2).mean()), rel=1e-5)
        assert one.sqnr_db == pytest.approx(-20 * math.log10(one.error))
        assert sum(one.bits.values()) == pytest.approx(one.bpw * one.weights)
        assert other.error is None
        assert other.kurtosis == pytest.approx(one.kurtosis, rel=0.1)


def test_a_histogram_counts_every_weight_between_the_levels(packed_model: Path, tiny_model: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    with open_model(packed_model) as stored:
        found = histogram(stored, name, Original(str(tiny_model)))
        decoded = histogram(stored, name)
    assert found.counts.sum() == decoded.counts.sum() == 128 * 64
    assert len(found.levels) == 16
    assert np.count_nonzero(decoded.counts) <= 16
    assert np.count_nonzero(found.counts) > 60
    # nearest rounding: the middle between two levels parts what goes to either
    middles = (found.levels[1:] + found.levels[:-1]) / 2
    below = [found.counts[found.edges[1:] <= middle].sum() for middle in middles]
    assert all(abs(a - decoded.counts[decoded.edges[1:] <= m].sum()) < 400 for a, m in zip(below, middles, strict=True))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj", (3, "up_proj")),
        ("transformer.h.11.attn.c_attn", (11, "c_attn")),
        ("model.layers.0.mlp.experts.gate_up_proj", (0, "gate_up_proj")),
        ("lm_head", None),
        ("model.embed_tokens", None),
    ],
)
def test_layers_are_read_from_names(name: str, place: tuple[int, str] | None) -> None:
    assert layer_of(name) == place


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.data: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def test_the_page_has_its_pictures_and_needs_nothing(kbit: Callable, packed_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    file, name = tmp_path / "page.html", "model.layers.1.self_attn.q_proj"
    called = kbit("show", packed_model, "--against", tiny_model, "--html", file, "--tensor", name)
    assert called.code == 0, called.err
    page = _Page()
    text = file.read_text(encoding="utf-8")
    page.feed(text)
    assert page.tags.count("svg") == 6
    assert not page.references
    assert "script" not in page.tags
    assert f"{name}: nf4:g32" in text
    assert page.tags.count("tr") == 1 + 15
    assert "nan" not in text.lower().replace("nanum", "")
    without = tmp_path / "other.html"
    assert kbit("show", packed_model, "--html", without).code == 0
    assert "--against MODEL" in without.read_text(encoding="utf-8")


def test_an_unknown_tensor_and_an_ordinary_model_are_refused(kbit: Callable, packed_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    called = kbit("show", packed_model, "--html", tmp_path / "page.html", "--tensor", "model.layers.1.self_attn.qproj")
    assert called.code == 1
    assert "q_proj" in called.err
    assert not (tmp_path / "page.html").exists()
    assert kbit("show", tiny_model, "--errors").code == 1


def test_shades_follow_values_and_names_are_escaped() -> None:
    drawn = heat_map("a < b", {("x&y", 0): 1.0, ("x&y", 1): 10.0, ("z", 1): 100.0}, lambda v: f"{v:g}", logarithmic=True)
    shades = [float(found) for found in re.findall(r'fill-opacity="([0-9.]+)"', drawn)]
    assert shades == pytest.approx([0.12, 0.535, 0.95], abs=1e-3)
    assert "x&amp;y" in drawn
    assert "a &lt; b" in drawn
    assert "nan" not in heat_map("one value", {("a", 0): 0.0}, str)


def test_bars_are_as_long_as_their_parts() -> None:
    drawn = stacked_bars("bits", {"a": {"codes": 4.0, "scales": 1.0}, "b": {"codes": 2.5}}, "bits")
    widths = [float(found) for found in re.findall(r'width="([0-9.]+)" height="21"', drawn)]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert widths[0] + widths[1] == pytest.approx(2 * widths[2], rel=0.01)


def test_a_histogram_draws_each_level() -> None:
    one = Histogram("t", "int2:g64", np.linspace(-3, 2, 11), np.arange(10), np.array([-2, -1, 0, 1], np.float32), decoded=True)
    assert level_histogram(one).count('stroke="var(--s1)"') == 4
