"""GGUF files of a Llama checkpoint.

    make_llama_cpp.py CHECKPOINT DESTINATION.gguf TYPE BASE.gguf

`BASE` is the file in BF16, written where it is missing; the library quantizes it into TYPE. The codebook types of two bits do not go
without an importance matrix: they are given one in which every input counts the same.
"""

import ctypes
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def main(checkpoint: Path, destination: Path, kind: str, base: Path) -> None:
    """Makes one file."""
    config = json.loads((checkpoint / "config.json").read_text())
    if not base.exists():
        part = base.with_name(base.name + ".part")
        write_base(checkpoint, config, part)
        part.rename(base)
    if kind == "BF16":
        if base != destination:
            shutil.copy(base, destination)
        return
    quantize(base, destination, kind, config)


def write_base(checkpoint: Path, config: dict[str, Any], path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    add_vocabulary(writer, config["vocab_size"])
    for name, values in read_tensors(checkpoint):
        rotated = {"q_proj": heads, "k_proj": kv_heads}.get(name.removesuffix(".weight").rpartition(".")[2])
        add_tensor(writer, gguf_name(name), interleaved(values, rotated) if rotated else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Names and bfloat16 bits of a checkpoint of safetensors, one tensor at a time."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int(data[:8].view(np.uint64)[0])
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, spec in header.items():
            assert spec["dtype"] == "BF16", f"{name} is {spec['dtype']}"
            begin, end = spec["data_offsets"]
            yield name, data[start + begin : start + end].view(np.uint16).reshape(spec["shape"])


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Made-up words: the engine is given ids."""
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (size - 3)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, size))])
    writer.add_token_scores([-float(index) for index in range(size)])
    writer.add_token_types(kinds)


def add_tensor(writer: gguf.GGUFWriter, name: str, bits: NDArray[np.uint16]) -> None:
    """Matrices stay in bfloat16, vectors become float32, as llama.cpp expects them."""
    if bits.ndim == 1:
        writer.add_tensor(name, (bits.astype(np.uint32) << np.uint32(16)).view(np.float32))
    else:
        writer.add_tensor(name, np.ascontiguousarray(bits).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def interleaved(values: NDArray[np.uint16], heads: int) -> NDArray[np.uint16]:
    """Rows of rotated pairs side by side, where transformers keeps them half a head apart."""
    rows, width = values.shape
    return values.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, _, rest = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{layer}.{NAMES[rest]}.weight"


def quantize(base: Path, destination: Path, kind: str, config: dict[str, Any]) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if kind.startswith(("IQ1", "IQ2")):
        params.imatrix = uniform_importance(base)
    if code := llama_cpp.llama_model_quantize(str(base).encode(), str(destination).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama_model_quantize to {kind} failed with code {code}")


def uniform_importance(base: Path) -> Any:
    """One for each input of each matrix, ended by an entry without a name."""
    matrices = [tensor for tensor in gguf.GGUFReader(base).tensors if len(tensor.shape) == 2]
    entries = (llama_cpp.llama_model_imatrix_data * (len(matrices) + 1))()
    for entry, tensor in zip(entries, matrices, strict=False):
        size = int(tensor.shape[0])
        entry.name, entry.size = tensor.name.encode(), size
        entry.data = (ctypes.c_float * size)(*[1.0] * size)
    return entries


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
