"""Llama checkpoints of random weights: what benchmarks of size and speed run on.

Sizes are what counts, so weights are normal with a deviation of 0.02 in bfloat16 and norms are one, written in shards, a few thousand rows
at a time. Tied, with a head dimension of 64.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.store.header import TensorSpec, build_header
from kbit.store.shards import plan_shards, write_index

__all__ = ["Config", "llama", "parameters", "write_checkpoint", "write_tokenizer"]

Config = dict[str, Any]

HEAD_DIM = 64
DEVIATION = np.float32(0.02)
MAX_SHARD_BYTES = 1_000_000_000
ROWS_AT_ONCE = 4096


def llama(
    vocabulary: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    *,
    context: int = 131072,
    bos: int = 1,
    eos: int = 2,
) -> Config:
    """`config.json` of a Llama with tied embedding."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM, "max_position_embeddings": context, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "bos_token_id": bos, "eos_token_id": eos,
    }  # fmt: skip


def tensors(config: Config) -> list[TensorSpec]:
    """Names and shapes of the checkpoint, from its configuration."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    wide, narrow = (config[f"num_{kind}_heads"] * HEAD_DIM for kind in ("attention", "key_value"))
    layer = {
        "self_attn.q_proj": (wide, hidden), "self_attn.k_proj": (narrow, hidden), "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, wide), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]


def parameters(config: Config) -> int:
    """Number of parameters, the tied embedding once."""
    return sum(math.prod(spec.shape) for spec in tensors(config))


def write_checkpoint(folder: Path, config: Config, seed: int = 0) -> None:
    """Writes configuration, shards and index into a new folder."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    specs = tensors(config)
    layout = plan_shards([(spec,) for spec in specs], MAX_SHARD_BYTES)
    for name, shard in layout.items():
        with (folder / name).open("wb") as file:
            file.write(build_header(shard, {"format": "pt"}))
            for spec in shard:
                for values in _rows(spec, random):
                    file.write((values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).data)
    if len(layout) > 1:
        write_index(folder, {spec.name: name for name, shard in layout.items() for spec in shard}, sum(spec.nbytes for spec in specs))


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of made-up words (``w17``), for converters that will not go without one."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, vocabulary))]
    special = [
        {"id": index, "content": word, "special": True} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for index, word in enumerate(words[:3])
    ]
    model = {"type": "WordLevel", "vocab": {word: index for index, word in enumerate(words)}, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": special, "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    tokenizer |= dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def _rows(spec: TensorSpec, random: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    if len(spec.shape) == 1:
        yield np.ones(spec.shape, np.float32)
        return
    rows, width = spec.shape
    for begin in range(0, rows, ROWS_AT_ONCE):
        yield random.standard_normal((min(ROWS_AT_ONCE, rows - begin), width), np.float32) * DEVIATION
