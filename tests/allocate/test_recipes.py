"""Recipes by name: the one scheme that fits, and the time that each will take."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from kbit.allocate.band import gaussian_error
from kbit.allocate.estimate import Rates, choose_method, encoding_seconds, estimate
from kbit.allocate.ladder import ONE, ONE_PLAIN, SIZE, SIZE_PLAIN, TIME, TIME_PLAIN, Goal, candidates
from kbit.allocate.recipes import books, uniform
from kbit.allocate.units import Unit, stored_bytes
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme

BASE = Plan(Scheme.parse("int4"))


@pytest.mark.parametrize(("goal", "calibrated", "plain"), [("one", ONE, ONE_PLAIN), ("size", SIZE, SIZE_PLAIN), ("time", TIME, TIME_PLAIN)])
def test_every_line_of_a_ladder_is_a_scheme(goal: Goal, calibrated: tuple[str, ...], plain: tuple[str, ...]) -> None:
    assert [scheme.text for scheme in candidates("linear", calibrated=True, goal=goal)] == list(calibrated)
    assert [scheme.text for scheme in candidates("embedding", calibrated=True, goal=goal)] == list(plain)
    assert candidates("linear", calibrated=False, goal=goal, keep=True)[-1] == KEEP
    assert not any(scheme.methods for scheme in candidates("conv2d", calibrated=True, goal=goal))


def test_of_one_scheme_for_all_the_larger_loses_less() -> None:
    shape = (64, 1024)
    for texts in (ONE, ONE_PLAIN):
        schemes = sorted((Scheme.parse(text) for text in texts), key=lambda scheme: stored_bytes(scheme, shape))
        errors = [gaussian_error(scheme) for scheme in schemes]
        assert errors == sorted(errors, reverse=True)
    assert not any(text.startswith("trellis") for text in ONE_PLAIN)  # fast stays fast


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


RATES = Rates(macs=1e11, run=2e11, run_float32=1e11, nearest=1e7, path=2e6, compensated=1e6, compensated_path=7e5)


def test_better_takes_longer(make_units: Callable[..., list[Unit]]) -> None:
    def units(goal: Goal, *, calibrated: bool) -> list[Unit]:
        return make_units(schemes=candidates("linear", calibrated=calibrated, goal=goal))

    facts = {"parameters": 300_000, "rates": RATES}
    fast = estimate(units("one", calibrated=False), 0, 1, share=False, **facts)
    good = estimate(units("one", calibrated=True), 65_536, 512, share=False, **facts)
    best = estimate(units("size", calibrated=True), 65_536, 512, share=True, **facts)
    assert fast.sensitivity == good.sensitivity == 0 < best.sensitivity
    assert fast.encoding < good.encoding <= best.encoding
    assert best.method == "measured"
    large = [Unit(f"layers.{i}", "linear", (8192, 8192), candidates("linear", calibrated=True), (1,) * len(SIZE), True) for i in range(100)]
    assert estimate(large, 131_072, 512, share=True, parameters=10**10, rates=RATES).method == "predicted"
    assert (choose_method(10), choose_method(10_000)) == ("measured", "predicted")


def test_predicted_losses_count_all_encodings_of_the_first_weight() -> None:
    schemes = tuple(Scheme.parse(text) for text in ("int2:g128+gptq", "int4:g128+gptq"))
    narrow, wide = (Unit(str(cols), "linear", (512, cols), schemes, (2, 4), free=True) for cols in (512, 2048))
    first_narrow, first_wide = (
        estimate(units, 1000, 100, share=True, parameters=10**6, method="predicted", rates=RATES).sensitivity
        for units in ([narrow, wide], [wide, narrow])
    )
    both = [*schemes, *(replace(scheme, methods=()) for scheme in schemes)]
    more = sum(RATES.seconds(wide, scheme) - RATES.seconds(narrow, scheme) for scheme in both)
    assert first_wide - first_narrow == pytest.approx(more)
    assert first_narrow > sum(RATES.seconds(narrow, scheme) for scheme in schemes) + (512**3 + 2048**3) / RATES.macs


def test_encoding_takes_the_time_of_what_was_chosen() -> None:
    schemes = tuple(Scheme.parse(text) for text in ("int4:g128", "trellis2:g128", "int4:g128+gptq", "trellis2:g128+gptq"))
    unit = Unit("a", "linear", (1000, 1000), schemes, (3, 2, 3, 2), free=True)
    seconds = [encoding_seconds([unit], {"a": scheme}, 1000, 1_000_000, RATES) for scheme in schemes]
    products = (1000**3 + 1000**3) / 1e11 + 1000 * (2e6 + 5e5) / 2e11
    assert seconds == pytest.approx([1e6 / 1e7, 1e6 / 2e6, 1e6 / 1e6 + products, 1e6 / 7e5 + products])


def test_trials_give_every_rate() -> None:
    rates = asdict(Rates.measure())
    assert all(0 < rate < math.inf for rate in rates.values()), rates
    products = [rates.pop(name) for name in ("macs", "run", "run_float32")]
    assert min(products) > 10 * max(rates.values()), "multiply-adds, of which a weight takes thousands"


def test_the_embedded_text_is_there() -> None:
    assert len(books()) == 8
