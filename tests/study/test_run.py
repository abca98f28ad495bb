import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.core.errors import ModelError, SchemeError
from kbit.study.plan import StudyPlan
from kbit.study.run import StudyResult, forecast, run_study

Planned = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path]:
    """The plan with speeds, measured in this process."""
    path = lab / "speed.toml"
    path.write_text((lab / "plan.toml").read_text() + "[speed]\nthreads = [1]\nprompt_tokens = 8\ndecode_tokens = 4\nrepeats = 1\n")
    store = tmp_path_factory.mktemp("study") / "s.db"
    return run_study(path, store, workers=1, exports=[store.with_suffix(".csv")]), store


def test_a_row_a_cell_with_all_figures(whole: tuple[StudyResult, Path]) -> None:
    found, store = whole
    assert (len(found.rows), found.failed) == (10, ())
    assert found.measured == 10 + 6  # two models; 16, int3 and nf3 have a layout each
    for row in found.rows:
        parts = [row[f"{part}_bytes"] for part in ("codes", "scales", "zero_points", "codebooks", "padding", "rest", "header")]
        assert sum(parts) == row["file_bytes"]
        assert row["tokens"] == 96
        assert row["decode_tokens_per_s"] > 0
        assert row["peak_rss_bytes"] > 0
        if row["scheme"] == "16":
            assert (row["kl_mean"], row["top1_agreement"], row["bpw"], row["weight_error"]) == (0.0, 1.0, 16.0, 0.0)
        else:
            assert 0 < row["kl_mean"] <= row["kl_p99"] <= row["kl_max"]
            assert row["bpw"] == 3 + 16 / 32
            assert 0.005 < row["weight_error"] < 0.1
    assert [row["model"] for row in found.rows].count("a") == 5
    assert store.with_suffix(".csv").read_text().count("\n") == 11


def test_quality_is_that_of_quantize_and_eval(lab: Path, whole: tuple[StudyResult, Path], tmp_path: Path) -> None:
    from kbit.calibrate import CalibrationText
    from kbit.evaluate import ModelLogits, compare
    from kbit.evaluate.models import load_causal_model, load_tokenizer
    from kbit.evaluate.windows import read_text, tokenize
    from kbit.model import decode, quantize_folder
    from kbit.study.text import spread_windows

    row = next(row for row in whole[0].rows if row["model"] == "b" and row["scheme"] == "int3:g32+imp+gptq")
    text = CalibrationText((lab / "text.txt",), tokens=128)
    packed = quantize_folder(lab / "b", tmp_path / "packed", "int3:g32+imp+gptq", calibration=text, progress=False)
    windows = spread_windows(tokenize(read_text(lab / "heldout.txt"), load_tokenizer(lab / "b")), 32, 3)
    found = compare(decode(tmp_path / "packed"), ModelLogits(load_causal_model(lab / "b")), windows)
    assert (packed.root, packed.file_bytes, packed.bpw) == (row["root"], row["file_bytes"], row["bpw"])
    assert found.divergence.kl_mean.value == pytest.approx(row["kl_mean"], rel=1e-4)
    assert found.loss.nats_per_token.value == pytest.approx(row["loss_nats"], rel=1e-6)


def test_nothing_is_measured_twice_and_what_changed_is_new(lab: Path, whole: tuple[StudyResult, Path], planned: Planned) -> None:
    _, store = whole
    plan = StudyPlan.read(lab / "speed.toml")
    assert run_study(plan, store, workers=1).measured == 0
    assert forecast(plan, store, exports=[store.with_suffix(".parquet")]).missing == 0
    assert store.with_suffix(".parquet").stat().st_size > 1000
    changed = StudyPlan.read(planned("changed", ("bits = [3]", "bits = [3, 4]")))
    expected = forecast(changed, store)
    assert (expected.cells, expected.missing) == (18, 8)
    assert expected.gmacs > 0
    assert forecast(StudyPlan.read(planned("windows", ("windows = 3", "windows = 2"))), store).missing == 10


def test_a_failed_cell_is_a_row_with_its_reason(lab: Path, planned: Planned, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(lab / "a", lab / "broken", dirs_exist_ok=True)
    weights = load_file(lab / "broken" / "model.safetensors")
    name = next(name for name in weights if "up_proj" in name)
    weights[name][3, 5] = torch.nan
    save_file(weights, lab / "broken" / "model.safetensors", metadata={"format": "pt"})
    plan = planned("broken", ('path = "b"\nfamily = "other"', 'path = "broken"'))
    found = run_study(plan, tmp_path / "s.db", workers=1)
    bad = [row for row in found.rows if row["model"] == "broken"]
    assert len(bad) == len(found.failed) == 5
    for row in bad:
        assert row["status"] == "failed"
        assert "NumericsError" in row["reason"]
        assert row["perplexity"] is None
        assert row["kl_mean"] is None
        assert row["bpw"] is None
    assert all(row["status"] == "ok" for row in found.rows if row["model"] == "a")
    assert run_study(plan, tmp_path / "s.db", workers=1).measured == 0
    assert run_study(plan, tmp_path / "s.db", workers=1, retry_failed=True).measured == 5


def test_a_model_that_cannot_be_read_is_named_with_its_field(lab: Path, planned: Planned, tmp_path: Path) -> None:
    plan = planned("absent", ('path = "b"', 'path = "absent"'))
    with pytest.raises(ModelError, match=r"absent\.toml: models\[1\]\.path: cannot read the model 'absent'"):
        run_study(plan, tmp_path / "s.db", workers=1)


def test_exports_are_looked_at_first(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="ends in"):
        run_study(lab / "plan.toml", tmp_path / "s.db", exports=["rows.txt"])
    assert not (tmp_path / "s.db").exists()
