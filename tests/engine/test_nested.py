"""A model of nested codes run in fewer bits: the same as the model of those bits by itself."""

from pathlib import Path

import numpy as np
import pytest

from kbit.core.errors import ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.feeds import Feed
from kbit.evaluate.size import stored_size
from kbit.model import decode, quantize_folder
from kbit.store.folder import open_model
from kbit.tensor.nested import first_bits

from .conftest import Checkpoint

NESTED = Plan(Scheme.parse("nested6:g16"), embedding=Scheme.parse("int8:g16"))
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def logits(path: Path, **options: int | None) -> np.ndarray:
    engine = Engine.load(path, mode="exact", **options)
    return engine.step([Feed(engine.sequence(), TOKENS, "all")])


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_model_runs_at_every_k(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "nested", NESTED, progress=False)
    decoded = decode(tmp_path / "nested")
    assert np.abs(logits(tmp_path / "nested", bits=6) - logits(tmp_path / "nested")).max() == 0
    with open_model(tmp_path / "nested") as stored:
        for bits in (2, 3, 5):
            for module, found in stored.manifest.modules.items():
                if found.scheme.grid == "nested":
                    weight = first_bits(stored.quantized(module), bits).dequantize()
                    parameter = decoded.get_parameter(
                        f"{module}.weight" if not module.endswith("_proj") or "experts" not in module else module
                    )
                    parameter.data.copy_(parameter.new_tensor(weight).reshape(parameter.shape))
            decoded.save_pretrained(tmp_path / f"plain{bits}")
            expected = logits(tmp_path / f"plain{bits}")
            found_logits = logits(tmp_path / "nested", bits=bits)
            assert np.abs(found_logits - expected).max() < 1e-3 * np.abs(expected).max()


def test_fewer_bits_take_less_memory(checkpoint: Checkpoint, tmp_path: Path) -> None:
    quantize_folder(checkpoint("llama"), tmp_path / "nested", NESTED, progress=False)
    read = [Engine.load(tmp_path / "nested", bits=bits).weight_bytes_per_token for bits in (2, 4, 6)]
    assert read[0] < read[1] < read[2]
    sizes = [stored_size(tmp_path / "nested", bits) for bits in (2, 4)]
    assert sizes[1].bpw - sizes[0].bpw == pytest.approx(2, abs=0.7)  # small matrices, large codebooks
    assert 8 * sizes[0].file_bytes == sum(sizes[0].parts.values())


def test_an_encoder_decoder_runs_in_fewer_bits(checkpoint: Checkpoint, tmp_path: Path) -> None:
    quantize_folder(checkpoint("t5"), tmp_path / "nested", NESTED, progress=False)
    all_bits, few = (EncoderDecoderEngine.load(tmp_path / "nested", mode="exact", bits=bits).encode(TOKENS) for bits in (None, 2))
    assert all_bits.shape == few.shape
    assert np.abs(all_bits - few).max() > 0


def test_bits_of_other_models_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    quantize_folder(checkpoint("llama"), tmp_path / "packed", "nf4:g16", progress=False)
    quantize_folder(checkpoint("llama"), tmp_path / "nested", NESTED, progress=False)
    for path in (tmp_path / "packed", checkpoint("llama")):
        with pytest.raises(ModelError, match="expected nested codes or a cascade to take 3 bits of, got none"):
            Engine.load(path, bits=3)
    with pytest.raises(SchemeError, match="2…6 bits, got 7"):
        Engine.load(tmp_path / "nested", bits=7)
