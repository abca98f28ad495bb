"""Forms find the coefficients of rows that they made, however a few outliers pull, and survive a trip through JSON."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.study.conftest import EXPONENT, LEVELS, SIZE_EXPONENT, loss_of, made_rows

from kbit.core.errors import NumericsError
from kbit.study.laws import FORMS
from kbit.study.laws.curve import SizeCurve
from kbit.study.laws.observations import Observations
from kbit.study.laws.robust import solve
from kbit.study.rows import Row


def test_curve_finds_what_made_the_rows() -> None:
    curve = SizeCurve.fit(Observations.of(made_rows()))
    assert curve.common == pytest.approx(EXPONENT, abs=0.02)
    for series, floor in (("alpha/text/2048", 2.0), ("beta/text/2048", 1.0)):
        assert curve.log_floor[curve.series.index(series)] == pytest.approx(floor, abs=0.05)
    assert curve.at(["alpha/text/2048", "gamma/text/2048"], np.log([2.0, 2.0])) == pytest.approx(
        [loss_of("alpha", 2.0, 16, -1), math.nan], abs=0.003, nan_ok=True
    )
    assert curve.beyond("alpha/text/2048", math.log(2.0)) == 0
    assert curve.beyond("alpha/text/2048", math.log(60.0)) == pytest.approx(math.log(2.0))


def test_power_law_finds_what_made_the_rows_despite_outliers() -> None:
    rows = made_rows()
    at = next(index for index, row in enumerate(rows) if row.bits == 4 and row.params == 3_000_000_000)
    rows[at] = replace(rows[at], perplexity=(rows[at].perplexity or 0) * 400)
    seen = Observations.of(rows)
    law = FORMS["power"].fit(seen, curve=SizeCurve.fit(seen))
    wanted = [
        replace(rows[0], family=family, params=2_000_000_000, method="gptq", bits=bits, group_size=group)
        for family in ("alpha", "beta")
        for bits, group in LEVELS
    ]
    truth = [loss_of(row.family, 2.0, int(row.bits), row.group_size) for row in wanted]
    assert law.predict(wanted) == pytest.approx(truth, abs=0.02)
    found = law.coefficients()
    assert found["b[gptq 3]"] == pytest.approx(LEVELS[3, -1], abs=0.1)
    assert found["β"] + found["β[gptq 3]"] == pytest.approx(SIZE_EXPONENT, abs=0.05)


def test_ouyang_finds_an_exponent_of_bits() -> None:
    rows = [
        replace(row, perplexity=math.exp(loss_of(row.family, row.params / 1e9, 16, -1) + 8.0 * row.bpw**-4.0 * (row.params / 1e9) ** -0.2))
        for row in made_rows()
        if not row.is_original
    ]
    rows += [row for row in made_rows() if row.is_original]
    seen = Observations.of(rows)
    law = FORMS["ouyang"].fit(seen, curve=SizeCurve.fit(seen))
    found = law.coefficients()
    assert found["γ"] + found["γ[gptq]"] == pytest.approx(4.0, abs=0.25)
    assert found["α of damage"] == pytest.approx(0.2, abs=0.05)
    unseen = replace(rows[0], bits=2, group_size=-1, bpw=2.5)  # between no bits that were seen
    truth = loss_of(unseen.family, unseen.params / 1e9, 16, -1) + 8.0 * 2.5**-4.0 * (unseen.params / 1e9) ** -0.2
    assert law.predict([unseen])[0] == pytest.approx(truth, rel=0.1)


def test_kumar_finds_gamma() -> None:
    gamma = 1.1
    rows = []
    for row in made_rows():
        effective = row.params / 1e9 * (1.0 if row.is_original else 1 - math.exp(-row.bpw / gamma))
        rows.append(replace(row, perplexity=math.exp(loss_of(row.family, effective, 16, -1))))
    seen = Observations.of(rows)
    law = FORMS["kumar"].fit(seen, curve=SizeCurve.fit(seen))
    found = law.coefficients()
    assert math.exp(found["log γ[gptq]"] + found["c[gptq, alpha]"]) == pytest.approx(gamma, rel=0.05)
    assert law.predict(rows) == pytest.approx(np.log([row.perplexity for row in rows]), abs=0.02)


def test_bit_level_interpolates_in_log_bits() -> None:
    rows = [row for row in made_rows(sizes=(1.0, 4.0)) if row.family == "alpha" and row.bits == 4]
    seen = Observations.of(rows)
    law = FORMS["bit-level"].fit(seen, curve=SizeCurve.fit(seen))
    middle = replace(rows[0], params=2_000_000_000)
    ends = np.log([row.perplexity for row in rows])
    assert law.predict([middle, *rows]) == pytest.approx([ends.mean(), *ends])
    assert np.isnan(law.predict([replace(middle, bits=3)])[0])
    with pytest.raises(NumericsError, match="two sizes"):
        FORMS["bit-level"].fit(Observations.of(rows[:1]), curve=SizeCurve.fit(seen))


@pytest.mark.parametrize("form", FORMS)
def test_json_round_trip(form: str) -> None:
    rows = made_rows(noise=0.01)
    seen = Observations.of(rows)
    law = FORMS[form].fit(seen, curve=SizeCurve.fit(seen))
    again = type(law).from_json(json.loads(json.dumps(law.to_json())))
    assert again.predict(rows) == pytest.approx(law.predict(rows), nan_ok=True)
    assert again.coefficients() == pytest.approx(law.coefficients())


@pytest.mark.parametrize("form", [form for form in FORMS if form != "bit-level"])
def test_fewer_rows_than_coefficients_are_refused(form: str) -> None:
    originals = [row for row in made_rows() if row.is_original]
    odd = [replace(row, method=f"method {at}", bits=4) for at, row in enumerate(originals[:2])]
    seen = Observations.of([*originals, *odd])
    curve = SizeCurve.fit(seen)
    with pytest.raises(NumericsError, match=rf"{form}: expected at least as many"):
        FORMS[form].fit(Observations.of(originals), curve=curve)
    if form == "power":
        with pytest.raises(NumericsError, match=r"coefficients \(3\), got 2"):
            FORMS[form].fit(seen, curve=curve)


def test_damage_is_against_the_models_own_original() -> None:
    rows = made_rows(sizes=(1.0, 3.0))
    seen = Observations.of(rows)
    for at, row in enumerate(rows):
        truth = (
            math.nan
            if row.is_original
            else loss_of(row.family, row.params / 1e9, int(row.bits), row.group_size) - loss_of(row.family, row.params / 1e9, 16, -1)
        )
        assert seen.damage[at] == pytest.approx(truth, nan_ok=True)
    without = Observations.of([row for row in rows if not row.is_original])
    assert [row.bits for row, anchor in zip(without.rows, without.anchor, strict=True) if anchor] == [4] * 4


def test_solve_is_least_squares_for_small_residuals_and_a_median_for_outliers() -> None:
    random = np.random.default_rng(0)
    features, truth = random.standard_normal((200, 3)), np.array([1.0, -2.0, 0.5])
    target = features @ truth + 0.01 * random.standard_normal(200)
    wide = np.full(3, 100.0)
    found = solve(features, target, np.ones(200), np.zeros(3), wide)
    assert found == pytest.approx(np.linalg.lstsq(features, target, rcond=None)[0], abs=1e-3)
    target[:30] += 1e4
    assert solve(features, target, np.full(200, 0.01), np.zeros(3), wide) == pytest.approx(truth, abs=0.05)


def test_rows_without_a_grid_are_no_ones_business() -> None:
    row = Row("alpha", 10**9, "q4_K_M", 5, -1, 4.9, "text", 2048, 5.0)
    rows = [*made_rows(), row]
    seen = Observations.of(rows)
    law = FORMS["gaussian"].fit(seen, curve=SizeCurve.fit(seen))
    assert np.isnan(law.predict([row])[0])
