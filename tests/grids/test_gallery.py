"""The guide's picture and table are those of today's levels."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kbit.core.data_types import GRIDS, VECTOR_GRIDS
from kbit.core.scheme import Scheme

SCRIPT = Path(__file__).parents[2] / "docs" / "gallery.py"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def picture(gallery: ModuleType) -> str:
    return gallery.picture()


def test_the_page_is_up_to_date(gallery: ModuleType) -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    assert gallery.page(text) == text, "run python docs/gallery.py"


def test_the_picture_is_up_to_date(gallery: ModuleType, picture: str) -> None:
    assert picture == gallery.PICTURE.read_text(encoding="utf-8"), "run python docs/gallery.py"


def test_the_picture_has_a_tick_for_each_level(gallery: ModuleType, picture: str) -> None:
    root = ET.fromstring(picture)
    panels = root.findall("{http://www.w3.org/2000/svg}g")
    # the levels of the others are not those of single weights
    assert {grid for grid, _ in gallery.PANELS.values()} == set(GRIDS) - {"nested", "trellis", *VECTOR_GRIDS}
    for panel, (grid, detail) in zip(panels, gallery.PANELS.values(), strict=True):
        drawn = [path.get("d", "").count("M") for path in panel if path.get("class") in {"f", "d"}]
        schemes = [scheme for bits in range(1, 9) if (scheme := gallery.scheme_of(grid, detail, bits))]
        assert drawn == [gallery.fitted_levels(scheme).size for scheme in schemes]


def test_every_grid_has_a_row_and_kmeans_the_least_error(gallery: ModuleType) -> None:
    assert {grid for grid, _ in gallery.ROWS.values()} == set(GRIDS) - {"nested", "trellis", *VECTOR_GRIDS}
    text = gallery.PAGE.read_text(encoding="utf-8")
    rows = text[text.index(gallery.BEGIN) : text.index(gallery.END)].splitlines()[3:]
    assert len(rows) == len(gallery.ROWS)
    assert [name for name, row in zip(gallery.ROWS, rows, strict=True) if row.count("**") == 14] == ["`kmeans`"]
    assert re.findall(r"\d\.\d+|–", rows[0])[0] == "0.3963"


def test_error_of_a_block_that_the_grid_holds_exactly_is_zero(gallery: ModuleType) -> None:
    block = np.array([[-8, 7, 0, 3], [4, -2, 1, 0]], dtype=np.float32)
    assert gallery.relative_rms_error(Scheme("int", 4), block) == 0
    assert gallery.relative_rms_error(Scheme("int", 4, symmetric=False), np.array([[0, 15, 3], [-5, 10, 1]], dtype=np.float32)) == 0
    assert gallery.relative_rms_error(Scheme("int", 2), block) > 0.05
