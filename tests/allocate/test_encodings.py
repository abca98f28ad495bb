"""What candidate encodings are made from: inputs for those that look at them, and for no others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.allocate.encodings import observe_units
from kbit.calibrate.text import CalibrationWindows
from kbit.calibrate.walk import LayerWalk
from kbit.core.scheme import Scheme
from kbit.model.load import load_ordinary

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("texts", "columns"),
    [(("int4:g32+hqq", "int4:g32+rotate"), 0), (("int4:g32+imp", "int3:g32+hqq"), 1), (("int4:g32+imp", "int4:g32+awq"), 2)],
)
def test_inputs_are_seen_by_those_that_ask(
    texts: tuple[str, ...], columns: int, make_units: Callable, model_folder: Path, windows: CalibrationWindows
) -> None:
    units = make_units(free=("default", "head"), schemes=tuple(Scheme.parse(text) for text in texts))
    units = [unit for unit in units if unit.kind != "embedding"]
    model = load_ordinary(model_folder, dtype=torch.float32).eval()
    layers = []
    with LayerWalk(model, torch.from_numpy(windows.ids[:2])) as walk:
        walk.start()
        for layer, found in observe_units(model, units, walk):
            for seen in found:
                layers.append((layer, seen.unit.name))
                moments = seen.inputs.moments.get(seen.unit.name)
                assert (moments is None) == (columns == 0)
                if moments is not None:
                    assert moments[0].full == (columns == 2)
                    assert 0 < seen.error(seen.weights * 0.1) < 0.02
                assert seen.encode(Scheme.parse("int4:g32+hqq")).shape == seen.unit.shape
    assert len(layers) == len(units)
    assert [layer for layer, name in layers if name == "lm_head"] == [0 if columns == 0 else 2]
