import math
from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.core.errors import ModelError, ShapeError
from kbit.evaluate.folder import evaluate_folder
from kbit.evaluate.size import stored_size
from kbit.model import quantize_folder

Folder = Callable[..., Path]

CONTRACT = {
    *("perplexity", "bits_per_byte", "kl_mean", "kl_median", "kl_p99", "kl_max", "top1_agreement"),
    *("bpw", "bpw_file", "file_bytes", "tokens", "protocol"),
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("All happy families are alike; each unhappy family is unhappy in its own way.\n" * 5)
    return tmp_path / "text.txt"


def test_packed_model_against_its_original(tiny_folder: Folder, tmp_path: Path, text: Path) -> None:
    quantize_folder(tiny_folder(), tmp_path / "packed", "int8:g32", progress=False)
    quantize_folder(tiny_folder(), tmp_path / "coarse", "int2:g32", progress=False)
    fine, coarse = (evaluate_folder(tmp_path / name, tiny_folder(), [text], context=16).to_json() for name in ("packed", "coarse"))
    assert set(fine) >= CONTRACT
    assert 0 < fine["kl_mean"] < 0.1 * coarse["kl_mean"]
    assert fine["top1_agreement"] > coarse["top1_agreement"]
    assert fine["perplexity_ratio"] == pytest.approx(fine["perplexity"] / fine["reference_perplexity"])
    assert fine["bpw"] == stored_size(tmp_path / "packed").bpw
    assert fine["protocol"]["context"] == 16
    assert fine["protocol"]["bytes"] == len(text.read_bytes()) - 1  # the first token has nothing before it
    assert fine["protocol"]["tokens"] == fine["tokens"]
    assert fine["intervals"]["kl_mean"][0] < fine["kl_mean"] < fine["intervals"]["kl_mean"][1]


def test_a_model_against_itself(tiny_folder: Folder, text: Path) -> None:
    values = evaluate_folder(tiny_folder(), tiny_folder(), [text, text], context=None, limit_tokens=100).to_json()
    assert values["kl_max"] == 0.0
    assert values["top1_agreement"] == 1.0
    assert values["protocol"]["context"] == 64  # all positions of the model
    assert values["tokens"] == 100


def test_without_an_original_the_distance_is_null(tiny_folder: Folder, text: Path) -> None:
    values = evaluate_folder(tiny_folder(), None, [text], context=16, stride=8).to_json()
    assert math.isfinite(values["perplexity"])
    assert values["kl_mean"] is values["top1_agreement"] is values["reference_perplexity"] is None
    assert set(values) >= CONTRACT
    assert set(values["intervals"]) == {"perplexity", "nats_per_token", "bits_per_byte"}


def test_no_text_and_another_tokenizer_are_refused(tiny_folder: Folder, text: Path) -> None:
    with pytest.raises(ShapeError, match="at least one text"):
        evaluate_folder(tiny_folder())
    with pytest.raises(ModelError, match="one tokenizer, got two"):
        evaluate_folder(tiny_folder(), tiny_folder(adds_bos=True), [text], context=16)
