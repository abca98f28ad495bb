"""Losses of trellis codes in other groups: who their partner is, and that what is derived comes near what is measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit.allocate import search
from kbit.allocate.derived import Derived, ordered, partner
from kbit.allocate.encodings import Seen
from kbit.allocate.ladder import SIZE, candidates
from kbit.allocate.search import find_sensitivity
from kbit.allocate.sensitivity import Loss, Sensitivity
from kbit.allocate.units import Unit
from kbit.calibrate.text import CalibrationWindows
from kbit.core.scheme import KEEP, Scheme
from kbit.store.folder import open_model

PARTNER, TRELLIS, ROW = (Scheme.parse(f"trellis2:{group}+imp+gptq") for group in ("g32", "g16", "g-1"))
SCHEMES = (PARTNER, TRELLIS, ROW)


def test_a_partner_differs_in_its_group_alone() -> None:
    texts = ("kmeans2:g64+imp+gptq", "trellis2:g64", "trellis2:g64+imp+gptq", "trellis2:g128+imp+gptq", "trellis3:g128+imp+gptq")
    listed = [*(Scheme.parse(text) for text in texts), KEEP]
    assert [partner(scheme, listed) for scheme in listed] == [None, None, None, listed[2], None, None]
    assert ordered([listed[3], listed[2], listed[0]]) == [listed[3], listed[0], listed[2]]


def test_one_line_of_each_trellis_in_the_ladder_is_found_by_itself() -> None:
    listed = candidates("linear", calibrated=True)
    alone = [scheme.text for scheme in listed if scheme.grid == "trellis" and partner(scheme, listed) is None]
    assert alone == [text for text in SIZE if text.startswith("trellis") and ":g256" in text]


def test_the_first_ratio_counts() -> None:
    derived = Derived()
    assert derived.loss(TRELLIS, PARTNER, {PARTNER: Loss(2.0, 1.0)}) is None
    derived.learn(TRELLIS, PARTNER, {PARTNER: Loss(0.0, 0.0), TRELLIS: Loss(0.0, 0.0)})
    derived.learn(TRELLIS, PARTNER, {PARTNER: Loss(9.0, 0.1), TRELLIS: Loss(9.0, 0.06)})
    derived.learn(TRELLIS, PARTNER, {PARTNER: Loss(9.0, 0.1), TRELLIS: Loss(9.0, 0.09)})
    assert derived.loss(TRELLIS, PARTNER, {PARTNER: Loss(2.0, 1.0)}) == Loss(pytest.approx(1.2), pytest.approx(0.6))


@pytest.fixture(scope="module")
def tried(model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Losses of two layers by both ways, and which encodings each took."""
    units = make_units(schemes=SCHEMES)
    found: dict = {}
    for name, derive in (("derived", True), ("measured", False)):
        calls: list[tuple[str, Scheme]] = []
        with pytest.MonkeyPatch.context() as patch:
            true_call = search._Measurer.__call__

            def counted(self: object, seen: Seen, scheme: Scheme, calls: list = calls, true_call: Callable = true_call) -> Loss:
                calls.append((seen.unit.name, scheme))
                return true_call(self, seen, scheme)

            patch.setattr(search._Measurer, "__call__", counted)
            if not derive:
                patch.setattr(search, "partner", lambda scheme, schemes: None)
            found[name] = run(model_folder, units, windows, tmp_path_factory.mktemp("derived") / "journal"), calls
    return found


def run(folder: Path, units: list[Unit], windows: CalibrationWindows, journal: Path) -> Sensitivity:
    with open_model(folder) as stored:
        return find_sensitivity(stored, units, windows, method="measured", journal=journal, progress=False)


def test_one_weight_is_encoded_in_every_group(tried: dict) -> None:
    calls = tried["derived"][1]
    assert len({name for name, _ in calls}) == 14
    assert [scheme for _, scheme in calls].count(PARTNER) == 14
    assert [scheme for _, scheme in calls].count(TRELLIS) == [scheme for _, scheme in calls].count(ROW) == 1
    assert len(tried["measured"][1]) == 3 * 14


def test_what_is_derived_is_near_what_is_measured(tried: dict) -> None:
    derived, measured = tried["derived"][0].losses, tried["measured"][0].losses
    for scheme in (TRELLIS, ROW):
        ratios = np.log([derived[name][scheme].kl / measured[name][scheme].kl for name in derived])
        assert 0 < np.std(ratios) < 0.2  # the weights are 16 × 32 to 64 × 32, so that chance moves single ones
        totals = [sum(losses[name][scheme].kl for name in losses) for losses in (derived, measured)]
        assert totals[0] == pytest.approx(totals[1], rel=0.1)
    assert all(derived[name][PARTNER] == measured[name][PARTNER] for name in derived)


def test_a_stopped_run_derives_the_same(
    tried: dict, model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_call, calls = search._Measurer.__call__, []

    def stopped(self: object, seen: Seen, scheme: Scheme) -> Loss:
        calls.append(scheme)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return true_call(self, seen, scheme)

    monkeypatch.setattr(search._Measurer, "__call__", stopped)
    units = make_units(schemes=SCHEMES)
    with pytest.raises(KeyboardInterrupt):
        run(model_folder, units, windows, tmp_path / "journal")
    assert run(model_folder, units, windows, tmp_path / "journal").losses == tried["derived"][0].losses
