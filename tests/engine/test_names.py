"""Checkpoints that spell their names in other ways: without the model's prefix, with old words, with experts apart or together."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.core.errors import ModelError
from kbit.engine.architectures.blocks import Matrix, NormLayer, Table
from kbit.engine.feeds import Feed
from kbit.engine.names import Names
from kbit.engine.ops import Norm, Part, WeightSlice

from .conftest import Checkpoint, Engines, Plain
from .models import answer, build, difference, text

Tensors = dict[str, torch.Tensor]


def renamed(*pairs: tuple[str, str]) -> Callable[[Tensors], Tensors]:
    """Each pattern put for another in all names."""

    def change(tensors: Tensors) -> Tensors:
        for pattern, other in pairs:
            tensors = {re.sub(pattern, other, name): tensor for name, tensor in tensors.items()}
        return tensors

    return change


def fused(tensors: Tensors) -> Tensors:
    """Mixtral's experts as stacks, named as transformers has them in memory."""
    tensors = renamed((r"\.block_sparse_moe\.", ".mlp."))(tensors)
    for layer in range(3):
        parent = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([tensors.pop(f"{parent}.{expert}.{part}.weight") for expert in range(5)]) for part in ("w1", "w3", "w2")
        )
        tensors |= {f"{parent}.gate_up_proj": torch.cat([gate, up], dim=1), f"{parent}.down_proj": down}
    return tensors


def with_head(tensors: Tensors) -> Tensors:
    """A tied head stored all the same, with values of its own, which then count."""
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}


SPELLINGS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "llama without prefix": ("llama", renamed((r"^model\.", ""))),
    "gpt2 without prefix": ("gpt2", renamed((r"^transformer\.", ""))),
    "bloom without prefix": ("bloom", renamed((r"^transformer\.", ""))),
    "gptj without prefix": ("gptj", renamed((r"^transformer\.", ""))),
    "neox without prefix": ("gpt_neox", renamed((r"^gpt_neox\.", ""))),
    "neox with lm_head": ("gpt_neox", renamed((r"^embed_out", "lm_head"))),
    "opt without prefix": ("opt_projected", renamed((r"^model\.decoder\.", "decoder."))),
    "phi without prefix": ("phi", renamed((r"^model\.", ""))),
    "bert with prefix": ("bert", renamed((r"^", "bert."))),
    "bert with gamma and beta": (
        "bert_masked",
        renamed((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")),
    ),
    "bert with the bias on its matrix": ("bert_masked", renamed((r"predictions\.bias", "predictions.decoder.bias"))),
    "roberta with prefix": ("roberta", renamed((r"^", "roberta."))),
    "mixtral fused": ("mixtral", fused),
}


def rewritten(checkpoint: Checkpoint, name: str, change: Callable[[Tensors], Tensors], folder: Path) -> Path:
    shutil.copytree(checkpoint(name), folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    changed = change(dict(tensors))
    save_file({key: tensor.contiguous() for key, tensor in changed.items()}, folder / "model.safetensors")
    assert set(changed) != set(tensors)
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_are_the_same_model(spelling: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    name, change = SPELLINGS[spelling]
    engine, tokens = engines(rewritten(checkpoint, name, change, tmp_path)), text(11)
    assert difference(engine.step([Feed(engine.sequence(), tokens, "all")]), answer(build(name), tokens)) < 1e-5


def test_a_stored_head_counts_before_the_tie(checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    engine, tokens = engines(rewritten(checkpoint, "llama_tied_biased", with_head, tmp_path)), text(11)
    expected = answer(build("llama_tied_biased"), tokens) * 2
    assert difference(engine.step([Feed(engine.sequence(), tokens, "all")]), expected) < 1e-5


# ---- `Names` itself


def test_every_spelling_is_tried_the_usual_one_first(plain: Plain) -> None:
    weights = plain(
        {"a.norm.weight": torch.ones(3), "a.norm.gamma": torch.zeros(3), "b.norm.beta": torch.ones(3), "norm.bias": torch.ones(3)}
    )
    names = Names(weights, (("a.", ""), (".weight", ".gamma"), (".bias", ".beta")))
    assert names.require("a.norm.weight", (3,)) == "a.norm.weight"
    assert names.require("b.norm.bias", (3,)) == "b.norm.beta"
    assert names.require("a.norm.bias", (3,)) == "norm.bias"
    with pytest.raises(ModelError, match=r"expected 'b.norm.weight' of shape \[3\], got no such tensor"):
        names.require("b.norm.weight", (3,))
    with pytest.raises(ModelError, match=r"'b.norm.beta': expected shape \[4\], got \[3\]"):
        names.require("b.norm.bias", (4,))


def test_matrices_parts_and_norms(plain: Plain) -> None:
    weights = plain({"a.weight": torch.ones(6, 4), "a.bias": torch.ones(6), "n.weight": torch.ones(4), "n.bias": torch.ones(4)})
    names = Names(weights, ())
    assert names.part(Matrix("a", 6, 4, bias=True), 5) == Part(WeightSlice("a"), "a.bias", 5)
    assert names.part(Matrix("a", 6, 4, begin=2, end=5)) == Part(WeightSlice("a", 2, 5))
    assert names.part(Matrix("a", 4, 6, conv1d=True)) == Part(WeightSlice("a", transposed=True))
    assert names.table(Table("a", 6, 4)) == WeightSlice("a")
    assert names.norm(NormLayer("n", 4, "layer", 1e-3, bias=True)) == Norm("layer", "n.weight", "n.bias", 1e-3)
    assert names.norm(NormLayer("n", 4, plus_one=True)) == Norm("rms", "n.weight", None, 1e-6, plus_one=True)
    assert names.norm(NormLayer("missing", 4, weight=False)) == Norm("rms", None, None, 1e-6)
    assert names.norm(None) is None
    with pytest.raises(ModelError, match=r"'a': expected shape \[4, 6\], got \[6, 4\]"):
        names.part(Matrix("a", 4, 6))


def test_a_tied_head_is_the_embedding(plain: Plain) -> None:
    names = Names(plain({"table.weight": torch.ones(6, 4), "head.bias": torch.ones(6)}), ())
    table = Table("table", 6, 4)
    assert names.head(Matrix("head", 6, 4), table, tied=True) == Part(WeightSlice("table"))
    assert names.head(Matrix("head", 6, 4, bias=True), table, tied=True) == Part(WeightSlice("table"), "head.bias")
    with pytest.raises(ModelError, match=r"expected 'head' of shape \[6, 4\], got no such tensor"):
        names.head(Matrix("head", 6, 4), table, tied=False)
    with pytest.raises(ModelError, match=r"'head' is tied to 'table': expected both to be 6×5, got 6×4"):
        names.head(Matrix("head", 6, 5), table, tied=True)
