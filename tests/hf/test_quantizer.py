"""The plug-in on tiny random models: quantize on load, save, reload, decode, generate."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import kbit
from kbit.core.errors import FormatError, ModelError, NumericsError, SchemeError
from kbit.core.plan import Plan
from kbit.hf import KbitConfig
from kbit.model.quantize import quantize_folder
from kbit.nn.packed import PackedModule
from kbit.nn.swap import packed_modules, swap
from kbit.store.folder import open_model
from kbit.store.verify import verify

from .conftest import DECODER, GENERATING, KINDS, Checkpoint

Make = Callable[..., Checkpoint]

PLANS = {
    "linear only": KbitConfig("nf4:g32", mode="exact"),
    "all of it": KbitConfig("int4:g16:asym", embedding="kmeans4:g32:dq8", head="int8:g64", mode="exact"),
    "vectors": KbitConfig("vq2d3:g-1", embedding="vq3d2:g64", mode="exact"),
    "mixed": KbitConfig("float3:g32:e4m3", rules=[(r"\.0\.", "int5:g-1")], modules_to_not_convert=["o_proj", "c_proj"], mode="exact"),
}


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}


def assert_same_state(left: Any, right: Any) -> None:
    ours, theirs = state(left), state(right)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        assert torch.equal(value, theirs[name]), name


LOADS = [
    *[(kind, "linear only", torch.float32) for kind in KINDS],
    *[(kind, "all of it", torch.bfloat16) for kind in KINDS],
    *[(kind, "vectors", torch.bfloat16) for kind in ("llama-tied", "mixtral")],
    *[(kind, "mixed", torch.float16) for kind in ("llama-tied", "gpt2", "mixtral")],
]


@pytest.mark.parametrize(("kind", "plan", "dtype"), LOADS)
def test_quantize_on_load_equals_encoding_the_loaded_model(checkpoint: Make, kind: str, plan: str, dtype: torch.dtype) -> None:
    source, config = checkpoint(kind, dtype), PLANS[plan]
    assert config.plan is not None
    expected = source.load()
    swap(expected, config.plan, mode="exact")
    model = source.load(quantization_config=config)
    assert packed_modules(model)
    assert_same_state(expected, model)
    assert {module.mode for module in packed_modules(model).values()} == {"exact"}
    assert torch.equal(source.logits(expected), source.logits(model))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mixtral", "t5", "bert"])
def test_save_and_load_again_is_bit_exact(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    source = checkpoint(kind, torch.bfloat16)
    model = source.load(quantization_config=PLANS["all of it"])
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside the folder"
    again = source.load(folder)
    assert again.dtype == model.dtype == torch.bfloat16
    assert_same_state(model, again)
    assert torch.equal(source.logits(model), source.logits(again))
    again.save_pretrained(tmp_path / "again", max_shard_size="40KB")
    assert verify(folder).root == verify(tmp_path / "again").root


@pytest.mark.parametrize("kind", ["llama-tied", "mixtral"])
def test_a_group_that_outreaches_the_row_is_one_scale_a_row(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    source, config = checkpoint(kind), KbitConfig("nf4:g80", embedding="int8:g1024", mode="exact")
    model = source.load(quantization_config=config)
    texts = {module.scheme.text for module in packed_modules(model).values()}
    assert texts == {"nf4:g80", "nf4:g-1", "int8:g-1"}
    model.save_pretrained(tmp_path / "model")
    quantize_folder(source.path, tmp_path / "folder", config.plan)
    for folder in ("model", "folder"):
        assert verify(tmp_path / folder).ok
        assert_same_state(model, source.load(tmp_path / folder))


@pytest.mark.parametrize("kind", ["llama-tied", "mixtral", "gpt2", "t5"])
def test_a_saved_folder_is_a_sealed_model(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    model = checkpoint(kind).load(quantization_config=PLANS["all of it"])
    model.save_pretrained(tmp_path / "model")
    report = verify(tmp_path / "model")
    with open_model(tmp_path / "model") as stored:
        assert stored.manifest is not None
        assert stored.manifest.plan == PLANS["all of it"].plan
        assert set(stored.manifest.modules) | set(stored.tied) == set(packed_modules(model))
        assert report.modules == len(stored.manifest.modules)
        for name, module in packed_modules(model).items():
            for part, array in stored.quantized(name).parts().items():
                assert (array == module.quantized.parts()[part]).all()


def test_ties_are_stored_once_and_tied_again(checkpoint: Make, tmp_path: Path) -> None:
    model = checkpoint("llama-tied").load(quantization_config=PLANS["all of it"])
    model.save_pretrained(tmp_path / "model")
    with open_model(tmp_path / "model") as stored:
        assert not [name for name in stored.names() if name.startswith("lm_head")]
        assert stored.tied == {"lm_head": "model.embed_tokens"}
    again = checkpoint("llama-tied").load(tmp_path / "model")
    for part in again.lm_head.part_names:
        assert getattr(again.lm_head, part) is getattr(again.model.embed_tokens, part)


def test_a_save_replaces_an_older_one_of_other_shards(checkpoint: Make, tmp_path: Path) -> None:
    model = checkpoint("llama").load(quantization_config=PLANS["linear only"])
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "notes.txt").write_text("mine")
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.glob("model*")) == ["model.safetensors"]
    assert (folder / "notes.txt").read_text() == "mine"
    again = checkpoint("llama").load(folder)
    again.save_pretrained(folder, max_shard_size="40KB")  # over the very files it was loaded from
    assert not (folder / "model.safetensors").exists()
    verify(folder)
    assert_same_state(again, checkpoint("llama").load(folder))


def test_weights_are_encoded_as_they_are_and_not_as_the_model_computes(checkpoint: Make) -> None:
    source, config = checkpoint("llama"), PLANS["linear only"]
    full = source.load(quantization_config=config)
    narrow = source.load(quantization_config=config, dtype=torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert source.logits(narrow).dtype == torch.bfloat16
    for name, module in packed_modules(full).items():
        other = packed_modules(narrow)[name]
        assert other.compute_dtype == torch.bfloat16
        for part in module.part_names:
            assert torch.equal(getattr(module, part).detach(), getattr(other, part).detach())


def decoded(source: Checkpoint, folder: Path, **kwargs: Any) -> Any:
    with pytest.warns(UserWarning, match="loading attributes"):
        return source.load(folder, quantization_config=KbitConfig(dequantize=True), **kwargs)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "mixtral", "t5", "bert"])
def test_dequantize_gives_an_ordinary_model(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    source = checkpoint(kind)
    model = source.load(quantization_config=PLANS["all of it"])
    model.save_pretrained(tmp_path / "model")
    plain = decoded(source, tmp_path / "model")
    ordinary = source.load()
    assert not packed_modules(plain)
    assert {name: type(module) for name, module in plain.named_modules()} == {
        name: type(module) for name, module in ordinary.named_modules()
    }
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert getattr(plain.config, "quantization_config", None) is None
    assert torch.allclose(source.logits(plain), source.logits(model), atol=1e-4, rtol=0)
    plain.save_pretrained(tmp_path / "plain")
    assert torch.equal(source.logits(source.load(tmp_path / "plain")), source.logits(plain))
    in_place = model.dequantize()
    assert_same_state(in_place, plain)
    in_place.save_pretrained(tmp_path / "in_place")
    assert_same_state(source.load(tmp_path / "in_place"), plain)


@pytest.mark.parametrize("kind", GENERATING)
def test_generate_in_exact_mode_equals_the_decoded_checkpoint(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    source = checkpoint(kind)
    model = source.load(quantization_config=PLANS["linear only"])
    model.save_pretrained(tmp_path / "model")
    plain = decoded(source, tmp_path / "model")
    prompt = {"input_ids": source.inputs()["input_ids"], "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    for how in ({"do_sample": False}, {"do_sample": False, "num_beams": 5}, {"do_sample": True, "top_p": 0.9}):
        answers = []
        for each in (model, plain):
            torch.manual_seed(11)
            answers.append(each.generate(**prompt, max_new_tokens=8, pad_token_id=0, **how))
        assert torch.equal(*answers), how


def test_fast_mode_generates_and_stays_close(checkpoint: Make) -> None:
    source = checkpoint("llama")
    fast = source.load(quantization_config=KbitConfig("nf4:g32"))
    exact = source.load(quantization_config=KbitConfig("nf4:g32", mode="exact"))
    difference = (source.logits(fast) - source.logits(exact)).abs().max()
    assert 0 < difference < 0.1 * source.logits(exact).abs().max()
    ids = source.inputs()["input_ids"]
    assert fast.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, num_beams=5).shape[1] > ids.shape[1]


def test_mode_can_be_chosen_at_load(checkpoint: Make, tmp_path: Path) -> None:
    source = checkpoint("llama")
    source.load(quantization_config=KbitConfig("nf4:g32")).save_pretrained(tmp_path / "model")
    assert {module.mode for module in packed_modules(source.load(tmp_path / "model")).values()} == {"fast"}
    with pytest.warns(UserWarning, match="mode"):
        exact = source.load(tmp_path / "model", quantization_config=KbitConfig(mode="exact"))
    assert {module.mode for module in packed_modules(exact).values()} == {"exact"}


def test_the_base_model_loads_from_a_folder_with_a_head(checkpoint: Make, tmp_path: Path) -> None:
    from transformers import AutoModel

    checkpoint("bert").load(quantization_config=PLANS["linear only"]).save_pretrained(tmp_path / "model")
    whole = checkpoint("bert").load(tmp_path / "model")
    base = AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    assert packed_modules(base)
    ids = checkpoint("bert").inputs()["input_ids"]
    with torch.no_grad():
        assert torch.equal(base(ids).last_hidden_state, whole.bert(ids).last_hidden_state)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "mixtral", "t5", "bert"])
def test_folders_of_quantize_load_and_hold_the_same_bytes(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    source = checkpoint(kind, torch.bfloat16)
    config = PLANS["all of it"]
    assert config.plan is not None
    quantize_folder(source.path, tmp_path / "model", config.plan, progress=False)
    model = source.load(quantization_config=config)
    stored = source.load(tmp_path / "model")
    assert_same_state(model, stored)
    model.save_pretrained(tmp_path / "saved")
    with open_model(tmp_path / "model") as ours, open_model(tmp_path / "saved") as theirs:
        assert ours.manifest is not None
        assert theirs.manifest is not None
        assert ours.names() == theirs.names()
        assert ours.manifest.modules == theirs.manifest.modules
        assert ours.manifest.ties == theirs.manifest.ties
        assert ours.config["quantization_config"] | {"mode": "exact"} == theirs.config["quantization_config"]


@pytest.mark.parametrize("kind", ["llama-tied", "mixtral", "bert"])
def test_a_model_encoded_in_memory_saves_like_a_loaded_one(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    config = PLANS["all of it"]
    assert config.plan is not None
    model = kbit.encode(checkpoint(kind).load(), config.plan, mode="exact", progress=False)
    model.save_pretrained(tmp_path / "model")
    assert verify(tmp_path / "model").modules > 10
    loaded = checkpoint(kind).load(tmp_path / "model")
    assert_same_state(loaded, checkpoint(kind).load(quantization_config=config))
    before = state(checkpoint(kind).load())
    assert set(state(model.dequantize())) == set(before)


def test_scaled_embeddings_keep_their_scale(tmp_path: Path) -> None:
    settings = transformers.Gemma3TextConfig(**DECODER, head_dim=16, sliding_window=16)
    torch.manual_seed(1)
    transformers.Gemma3ForCausalLM(settings).save_pretrained(tmp_path / "ordinary")
    source = Checkpoint("llama-tied", tmp_path / "ordinary")
    model = source.load(quantization_config=PLANS["all of it"])
    model.save_pretrained(tmp_path / "model")
    plain = decoded(source, tmp_path / "model")
    assert type(plain.model.embed_tokens).__name__ == "Gemma3TextScaledWordEmbedding"
    assert torch.allclose(source.logits(plain), source.logits(model), atol=1e-4, rtol=0)


def test_a_copy_saves_itself(checkpoint: Make, tmp_path: Path) -> None:
    model = checkpoint("llama").load(quantization_config=PLANS["linear only"])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.add_(1)
    twin.save_pretrained(tmp_path / "twin")
    assert_same_state(checkpoint("llama").load(tmp_path / "twin"), twin)


def test_an_unsealed_folder_is_read_by_its_configuration(checkpoint: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = checkpoint("llama-tied").load(quantization_config=PLANS["mixed"])
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    assert_same_state(checkpoint("llama-tied").load(tmp_path / "model"), model)


@pytest.mark.parametrize(
    ("config", "kwargs", "error", "message"),
    [
        (KbitConfig(), {}, SchemeError, "expected a scheme"),
        (KbitConfig("nf4", dequantize=True), {}, SchemeError, "this folder is not encoded"),
        (KbitConfig("nf4"), {"device_map": "cuda"}, ModelError, "run on the CPU"),
        (KbitConfig("nf4"), {"device_map": {"": "cpu", "lm_head": "disk"}}, ModelError, "got 'disk'"),
    ],
)
def test_what_cannot_work_is_refused(checkpoint: Make, config: KbitConfig, kwargs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checkpoint("llama").load(quantization_config=config, **kwargs)


def test_automatic_device_map_means_the_cpu(checkpoint: Make) -> None:
    model = checkpoint("llama").load(quantization_config=KbitConfig("nf4:g32"), device_map="auto")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_another_scheme_than_the_stored_one_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    source = checkpoint("llama")
    source.load(quantization_config=KbitConfig("nf4:g32")).save_pretrained(tmp_path / "model")
    with (
        pytest.warns(UserWarning, match="loading attributes"),
        pytest.raises(SchemeError, match="holds nf4:g32, and int3:g64 was asked for"),
    ):
        source.load(tmp_path / "model", quantization_config=KbitConfig("int3"))


def test_numbers_that_are_none_are_named(checkpoint: Make, tmp_path: Path) -> None:
    model = checkpoint("llama").load()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "bad")
    with pytest.raises(NumericsError, match=r"model\.layers\.1\.mlp\.up_proj"):
        checkpoint("llama").load(tmp_path / "bad", quantization_config=KbitConfig("nf4"))


def test_a_weight_that_is_missing_is_named(checkpoint: Make, tmp_path: Path) -> None:
    model = checkpoint("llama").load()
    weights = {name: value for name, value in model.state_dict().items() if name != "model.layers.1.mlp.up_proj.weight"}
    model.save_pretrained(tmp_path / "bad", state_dict=weights)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is to be encoded"):
        checkpoint("llama").load(tmp_path / "bad", quantization_config=KbitConfig("nf4"))


def test_a_lost_array_is_named(checkpoint: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint("llama").load(quantization_config=KbitConfig("nf4")).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    arrays = load_file(file)
    del arrays["model.layers.0.mlp.up_proj.weight_scale"]
    save_file(arrays, file, metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"up_proj is packed as nf4:g64: expected an array 'weight_scale'"):
        checkpoint("llama").load(tmp_path / "model")


def test_flags_of_the_quantizer(checkpoint: Make) -> None:
    model = checkpoint("llama").load(quantization_config=KbitConfig("nf4"))
    assert model.is_quantized
    assert model.quantization_method == "kbit"
    assert model.hf_quantizer.is_serializable()
    assert not model.hf_quantizer.is_trainable
    assert isinstance(model.model.layers[0].mlp.up_proj, PackedModule)
    assert model.config.quantization_config.plan == Plan.of("nf4")
    with pytest.raises(ModelError, match=r"model\.push_to_hub"):
        model.save_pretrained("unused", push_to_hub=True)


def test_a_trained_model_writes_the_same_text_after_a_round_trip(shared_data: Path, tmp_path: Path) -> None:
    source = Checkpoint("llama-tied", shared_data / "models" / "quill-0.4m")
    model = source.load(quantization_config=KbitConfig("nf4:g64", embedding="int8:g64", mode="exact"), dtype=torch.float32)
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    plain = decoded(source, tmp_path / "model")
    again = source.load(tmp_path / "model")
    ids = source.inputs()["input_ids"]
    for beams in (1, 5):
        texts = [each.generate(input_ids=ids, max_new_tokens=12, do_sample=False, num_beams=beams) for each in (model, again, plain)]
        assert torch.equal(texts[0], texts[1])
        assert torch.equal(texts[0], texts[2])
