"""Losses of single weights: held against whole models that differ in one weight, kept in a journal, resumed after a stop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit.allocate import search
from kbit.allocate.search import find_sensitivity
from kbit.allocate.sensitivity import Loss, Sensitivity
from kbit.allocate.units import Unit
from kbit.calibrate import encode_sequentially
from kbit.calibrate.text import CalibrationWindows
from kbit.core.errors import FormatError, ResumeMismatch, SchemeError
from kbit.core.scheme import KEEP, Scheme
from kbit.model.load import load_ordinary
from kbit.nn.targets import find_targets
from kbit.store.folder import open_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def found(model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path_factory: pytest.TempPathFactory) -> Sensitivity:
    return run(model_folder, make_units(), windows, tmp_path_factory.mktemp("journal") / "one")


def run(folder: Path, units: list[Unit], windows: CalibrationWindows, journal: Path, method: str = "measured") -> Sensitivity:
    with open_model(folder) as stored:
        return find_sensitivity(stored, units, windows, method=method, journal=journal, progress=False)


def by_force(folder: Path, windows: CalibrationWindows, name: str, scheme: Scheme) -> float:
    """KL of a model with one weight encoded, by running both models whole."""
    ids = torch.from_numpy(windows.ids[: search.SCORED_WINDOWS["measured"]])
    model = load_ordinary(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits.double(), -1)
        targets, _ = find_targets(model, lambda module, _: scheme if module == name else KEEP)
        list(encode_sequentially(model, targets, windows))
        log_q = torch.log_softmax(model(ids).logits.double(), -1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"])
def test_is_the_divergence_of_the_model_with_that_weight_encoded(
    found: Sensitivity, model_folder: Path, windows: CalibrationWindows, name: str
) -> None:
    assert found.tokens == 4 * 48
    for scheme, loss in found.losses[name].items():
        assert loss.kl == pytest.approx(by_force(model_folder, windows, name, scheme), rel=1e-3)
        assert 0 < loss.error < 1


def test_embedding_and_head_are_measured_too(model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path: Path) -> None:
    units = [unit for unit in make_units(free=("default", "embedding", "head")) if unit.kind != "linear"]
    losses = run(model_folder, units, windows, tmp_path / "journal").losses
    for name in ("model.embed_tokens", "lm_head"):
        for scheme, loss in losses[name].items():
            assert loss.kl == pytest.approx(by_force(model_folder, windows, name, scheme), rel=1e-3)


def test_a_stopped_run_goes_on_where_it_was(
    found: Sensitivity,
    model_folder: Path,
    make_units: Callable,
    windows: CalibrationWindows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    true_call = search._Measurer.__call__

    def counted(self: object, seen: object, scheme: Scheme) -> object:
        calls.append(scheme)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return true_call(self, seen, scheme)

    monkeypatch.setattr(search._Measurer, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(model_folder, make_units(), windows, tmp_path / "journal")
    assert run(model_folder, make_units(), windows, tmp_path / "journal").losses == found.losses
    assert len(calls) == 10 + 14 * 3 - 9
    run(model_folder, make_units(), windows, tmp_path / "journal")
    assert len(calls) == 10 + 14 * 3 - 9


def test_a_journal_of_another_text_is_refused(
    model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path: Path
) -> None:
    units = make_units()[:1]
    run(model_folder, units, CalibrationWindows(windows.ids[:2]), tmp_path / "journal")
    with pytest.raises(ResumeMismatch, match="tokens"):
        run(model_folder, units, windows, tmp_path / "journal")


def test_a_prediction_is_near_what_is_measured(
    found: Sensitivity, model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path: Path
) -> None:
    predicted = run(model_folder, make_units(), windows, tmp_path / "journal", "predicted")
    pairs = [(loss.kl, predicted.losses[name][scheme].kl) for name, losses in found.losses.items() for scheme, loss in losses.items()]
    ratios = np.log([one / other for one, other in pairs])
    assert np.abs(ratios).max() < np.log(2.5)
    assert np.std(ratios) < 0.25
    assert np.corrcoef(np.log(np.array(pairs).T))[0, 1] > 0.98


def test_what_gptq_gains_goes_with_what_inputs_have_in_common(
    found: Sensitivity, model_folder: Path, make_units: Callable, windows: CalibrationWindows, tmp_path: Path
) -> None:
    """The first weight's inputs are embeddings, drawn one by one; those of the output projections lie in few directions."""
    predicted = run(model_folder, make_units(), windows, tmp_path / "journal", "predicted")
    scheme = Scheme.parse("int4:g32+imp+gptq")
    for name, losses in found.losses.items():
        assert predicted.losses[name][scheme].error == pytest.approx(losses[scheme].error, rel=0.7), name


def test_variance_left() -> None:
    random = np.random.default_rng(0)
    alone = np.eye(24, dtype=np.float32)
    assert search.variance_left([alone]) == pytest.approx(1.01)  # damped by 1 %
    inputs = (random.standard_normal((4000, 6)) @ random.standard_normal((6, 24))).astype(np.float32)
    common = inputs.T @ inputs
    assert search.variance_left([common]) < 0.3
    assert search.variance_left([common * 1e4]) == pytest.approx(search.variance_left([common]), rel=1e-4)
    share = np.trace(common) / (np.trace(common) + 24)
    mixed = share * search.variance_left([common]) + (1 - share) * search.variance_left([alone])
    assert search.variance_left([common, alone]) == pytest.approx(mixed, rel=1e-4)
    assert search.variance_left([np.zeros_like(alone)]) == 1


def test_a_table_is_read_back_as_it_was(found: Sensitivity, tmp_path: Path) -> None:
    found.write(tmp_path / "table.json")
    assert Sensitivity.read(tmp_path / "table.json") == found
    for damage in ({"version": 9}, {"method": "guessed"}, {"tokens": "many"}, {"losses": {"a": {"int4:g64": [1]}}}, {"losses": {"a": 3}}):
        with pytest.raises(FormatError, match="here"):
            Sensitivity.from_json(found.to_json() | damage, "here")


def test_a_weight_that_was_never_reached_counts_as_the_median() -> None:
    low, high = Scheme.parse("int2"), Scheme.parse("int4")
    seen = {"a": {low: Loss(0.2, 0.1), high: Loss(0.02, 0.01)}, "b": {low: Loss(0.8, 0.2), high: Loss(0.0, 0.01)}}
    filled = search.fill_unreached(seen | {"c": {low: Loss(0.0, 0.1), high: Loss(0.0, 0.01)}})
    assert filled == seen | {"c": {low: Loss(pytest.approx(0.2), 0.1), high: Loss(pytest.approx(0.02), 0.01)}}
    assert search.fill_unreached({"c": {low: Loss(0.0, 0.1)}}) == {"c": {low: Loss(0.0, 0.1)}}


def test_what_was_not_tried_is_refused(found: Sensitivity) -> None:
    with pytest.raises(SchemeError, match="not tried"):
        found.predict({"model.layers.0.mlp.up_proj": Scheme.parse("int7")})
    assert found.predict({"anything": KEEP}) == 0
