"""Recipes by name: the one scheme that fits, and the time that each will take."""

from collections.abc import Callable

import pytest

from kbit.allocate.ladder import CALIBRATED, PLAIN, candidates
from kbit.allocate.recipes import books, choose_method, estimate, uniform
from kbit.allocate.units import Unit, stored_bytes
from kbit.core.errors import SchemeError
from kbit.core.scheme import KEEP, Plan, Scheme

BASE = Plan(Scheme.parse("int4"))


def test_every_line_of_the_ladder_is_a_scheme() -> None:
    assert [scheme.text for scheme in candidates("linear", calibrated=True)] == list(CALIBRATED)
    assert [scheme.text for scheme in candidates("embedding", calibrated=True)] == list(PLAIN)
    assert candidates("linear", calibrated=False, keep=True)[-1] == KEEP
    assert not any(scheme.methods for scheme in candidates("conv2d", calibrated=True))


def test_the_largest_scheme_that_fits_is_taken(make_units: Callable[..., list[Unit]]) -> None:
    units = make_units()
    schemes = [Scheme.parse(text) for text in ("int2:g32", "int6:g32", "int4:g32")]
    sizes = {scheme: sum(stored_bytes(scheme, unit.shape) for unit in units) for scheme in schemes}

    def within(budget: int) -> Callable[[Plan], bool]:
        return lambda plan: sizes[plan.default] <= budget

    assert uniform(units, schemes, BASE, within(10**9)).default.text == "int6:g32"
    assert uniform(units, schemes, BASE, within(sizes[schemes[1]] - 1)).default.text == "int4:g32"
    with pytest.raises(SchemeError, match=r"at least 2\.5"):
        uniform(units, schemes, BASE, within(10))


def test_better_takes_longer(make_units: Callable[..., list[Unit]]) -> None:
    units = make_units()
    fast, good, best = (estimate(units, 65_536, 512, quality=name, parameters=300_000) for name in ("fast", "good", "best"))  # type: ignore[arg-type]
    assert fast.sensitivity == good.sensitivity == 0 < best.sensitivity
    assert fast.encoding < good.encoding
    assert best.method == "measured"
    large = [Unit(f"layers.{i}", "linear", (8192, 8192), units[0].schemes, units[0].sizes, free=True) for i in range(100)]
    assert estimate(large, 131_072, 512, quality="best", parameters=10**10).method == "predicted"
    assert (choose_method(10), choose_method(10_000)) == ("measured", "predicted")


def test_the_embedded_text_is_there() -> None:
    assert len(books()) == 8
