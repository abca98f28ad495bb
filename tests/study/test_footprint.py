"""Bytes from a configuration are those that kbit stores, caches and works in."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from kbit.core.errors import ModelError, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.store.folder import open_model
from kbit.study.advise.footprint import ModelShape, packed_size
from kbit.study.advise.models import find_models, known_families
from kbit.tensor.quantized import part_shapes

EMBEDDED = Path(str(files("kbit").joinpath("data", "quill-4.2m")))
CONFIG = json.loads((EMBEDDED / "config.json").read_text())


def test_original_as_the_engine_and_the_file_have_it() -> None:
    found = ModelShape(CONFIG, "quill").footprint(Plan.of("16"), 512)
    engine = Engine.load(EMBEDDED, mapped=True)
    with open_model(EMBEDDED) as stored:
        assert found.weight_bytes == sum(stored.entry(name).nbytes for name in stored.plain_names())
    assert found.read_bytes == engine.weight_bytes_per_token
    assert found.kv_bytes == engine.cache_bytes_per_position * 512
    assert engine.workspace_bytes <= found.workspace_bytes <= 1.3 * engine.workspace_bytes
    assert found.bpw == 16


@pytest.mark.parametrize(("text", "embedding"), [("int3:g32:asym", "int8:g64"), ("kmeans2:g128:e4m3", "16")])
def test_packed_as_quantize_stores_it(text: str, embedding: str, tmp_path: Path) -> None:
    quantize = pytest.importorskip("kbit.model.quantize")
    plan = Plan(Scheme.parse(text), embedding=Scheme.parse(embedding))
    quantize.quantize_folder(EMBEDDED, tmp_path / "packed", plan)
    found = ModelShape(CONFIG, "quill").footprint(plan, 100)
    with open_model(tmp_path / "packed") as stored:
        headers = sum(container.header_bytes for container in stored.containers.values())
        assert found.weight_bytes == stored.size_bytes - headers
    engine = Engine.load(tmp_path / "packed", mapped=True)
    assert found.read_bytes == engine.weight_bytes_per_token


def test_every_part_is_counted() -> None:
    scheme = Scheme.parse("kmeans3:g32:dq8")
    parts = part_shapes(scheme, (48, 96))
    assert set(parts) == {"weight", "weight_scale", "weight_super_scale", "weight_codebook"}
    assert packed_size(scheme, (48, 96)) == 48 * 96 * 3 // 8 + 48 * 3 + 3 * 4 + 8 * 4


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, models in known_families().items() for name, _ in models])
def test_known_shapes_have_as_many_parameters_as_published(family: str, name: str) -> None:
    table = json.loads(files("kbit").joinpath("data", "models.json").read_text())["families"]
    published = next(model["params"] for model in table[family] if model["name"] == name)
    (choice,) = find_models([name], None)
    assert choice.shape.params == published
    assert choice.family == family


def test_context_and_formats_are_checked() -> None:
    shape = ModelShape(CONFIG, "quill")
    with pytest.raises(ModelError, match="at most 512"):
        shape.footprint(Plan.of("16"), 513)
    with pytest.raises(SchemeError, match="cache format"):
        shape.footprint(Plan.of("16"), 512, "int2")  # type: ignore[arg-type]
    by_format = [shape.footprint(Plan.of("16"), 512, cache).kv_bytes for cache in ("fp32", "fp16", "int8", "int4")]  # type: ignore[arg-type]
    assert by_format == sorted(by_format, reverse=True)


def test_what_cannot_be_advised() -> None:
    with pytest.raises(ModelError, match="an encoder with a decoder"):
        ModelShape({"model_type": "t5"}, "here")
    with pytest.raises(ModelError, match="the engine knows no"):
        ModelShape({"model_type": "mamba"}, "here")


def test_finding_models(tmp_path: Path) -> None:
    assert find_models(None, "LLaMA 3")[0].name == "Llama-3.2-1B"
    (folder,) = find_models([str(EMBEDDED)], "quill")
    assert (folder.name, folder.family, folder.shape.params) == (EMBEDDED.name, "quill", 4_196_608)
    with pytest.raises(SchemeError, match="did you mean 'qwen3'"):
        find_models(None, "qwen33")
    with pytest.raises(SchemeError, match="known families"):
        find_models(None, None)
    with pytest.raises(SchemeError, match="no folder, and no known name"):
        find_models(["Llama-9"], None)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match="expected an object"):
        find_models([str(tmp_path)], None)
