"""Models in cascades: the native step against the oracle, and in their first levels against the model that has no others."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model
from kbit.core.errors import ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.evaluate.size import stored_size
from kbit.model import quantize_folder
from kbit.store.folder import open_model

from .conftest import Checkpoint, Pack, check_packed_engine
from .models import answer, difference, text

TOLERANCE = 2e-5
CASCADE = Plan(
    Scheme.parse("nf2:g16+residual2-1"),
    embedding=Scheme.parse("int4:g16+residual4"),
    rules=(
        (r"v_proj|down_proj|c_proj", Scheme.parse("kmeans2:g16+rotate+residual2+outlier1")),
        (r"k_proj", Scheme.parse("int3:g16+lowrank2")),
    ),
)
SUCCESSIVE, FIRST = (Plan(Scheme.parse(f"int3:g16{part}"), embedding=Scheme.parse("int8:g16")) for part in ("+successive2", ""))
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("kind", ["llama", "llama_tied_biased", "gpt2", "mixtral"])
def test_engine_is_the_reference(pack: Pack, kind: str) -> None:
    check_packed_engine(pack(kind, CASCADE), kind, text(19, seed=1), TOLERANCE)


def test_transformers_run_the_same(pack: Pack, tmp_path: Path) -> None:
    folder, tokens = pack("llama", CASCADE), text(17)
    loaded = kbit.model.load(folder, mode="exact", attn_implementation="eager")
    with torch.no_grad():
        assert difference(answer(loaded, tokens), answer(kbit.model.decode(folder), tokens)) < TOLERANCE
    loaded.save_pretrained(tmp_path / "again")
    with open_model(folder) as first, open_model(tmp_path / "again") as second:
        assert first.manifest is not None
        for name in first.manifest.modules:
            one, other = first.quantized(name).parts(), second.quantized(name).parts()
            assert {part: array.tobytes() for part, array in one.items()} == {part: array.tobytes() for part, array in other.items()}


def logits(path: Path, bits: int | None = None) -> np.ndarray:
    engine = Engine.load(path, mode="exact", bits=bits)
    return engine.step([Feed(engine.sequence(), TOKENS, "all")])


def test_first_levels_run_as_the_model_without_the_others(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, plan in (("whole", SUCCESSIVE), ("first", FIRST)):
        quantize_folder(checkpoint("llama"), tmp_path / name, plan, progress=False)
    assert logits(tmp_path / "whole", 3).tobytes() == logits(tmp_path / "first").tobytes()
    assert logits(tmp_path / "whole", 5).tobytes() == logits(tmp_path / "whole").tobytes()
    original = logits(checkpoint("llama"))
    assert np.abs(logits(tmp_path / "whole") - original).mean() < 0.5 * np.abs(logits(tmp_path / "first") - original).mean()
    assert stored_size(tmp_path / "whole", 3).bpw == stored_size(tmp_path / "first").bpw
    read = [Engine.load(tmp_path / "whole", bits=bits).weight_bytes_per_token for bits in (3, 5)]
    assert read[0] == Engine.load(tmp_path / "first").weight_bytes_per_token < read[1]


def test_levels_that_are_not_there_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, plan in (("whole", SUCCESSIVE), ("first", FIRST)):
        quantize_folder(checkpoint("llama"), tmp_path / name, plan, progress=False)
    with pytest.raises(SchemeError, match="have 3, 5 bits together, got 4"):
        Engine.load(tmp_path / "whole", bits=4)
    with pytest.raises(ModelError, match="expected nested codes or a cascade"):
        Engine.load(tmp_path / "first", bits=3)
