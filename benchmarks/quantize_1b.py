"""Time and memory of quantizing a model of 1.2 billion parameters from disk.

    python benchmarks/quantize_1b.py
    python benchmarks/quantize_1b.py --schemes nf4:g64 int4:g64:mse --threads 2 --json FILE

A random-weight checkpoint of the shape of Llama-3.2-1B (bfloat16, tied, vocabulary of 128256) is written in shards, tensor by tensor.
Each scheme then quantizes it in a process of its own: seconds of `quantize_folder` without imports, and the largest resident memory of
that process, imports and all, beside the size of the model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import machine
from kbit.store.header import TensorSpec, build_header
from kbit.store.shards import plan_shards, write_index

SCHEMES = ["nf4:g64", "int4:g64", "float4:g64", "log4:g64", "dynamic4:g64", "quantile4:g64", "kmeans4:g64"]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
WORKER = """
import json, sys
from kbit.model import quantize_folder
from kbit.core.memory import rss_bytes
import transformers.models.llama.modeling_llama
base = rss_bytes()
result = quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], threads=int(sys.argv[4]), progress=True)
keys = ("scheme", "seconds", "bpw", "bpw_file", "file_bytes", "source_bytes", "peak_rss_bytes", "estimate_bytes")
print(json.dumps({key: getattr(result, key) for key in keys} | {"rss_after_imports_bytes": base}))
"""
ROWS_AT_ONCE = 4096


def main() -> int:
    options = arguments()
    facts = machine.print_header("quantize a model of 1.2 billion parameters from disk")
    rows = []
    with tempfile.TemporaryDirectory(prefix="kbit-1b-", dir=options.folder) as scratch:
        work = Path(scratch)
        print("writing the checkpoint …", flush=True)
        write_checkpoint(work / "source", np.random.default_rng(options.seed))
        print(
            f"{'scheme':16} {'seconds':>8} {'bpw':>6} {'file MB':>8} {'peak MB':>8} {'imports MB':>10} {'estimate MB':>11} {'model MB':>8}"
        )
        for index, scheme in enumerate(options.schemes):
            row = quantize(work / "source", work / f"out-{index}", scheme, options.threads)
            rows.append(row)
            sizes = [
                row[key] / 1e6 for key in ("file_bytes", "peak_rss_bytes", "rss_after_imports_bytes", "estimate_bytes", "source_bytes")
            ]
            print(
                f"{scheme:16} {row['seconds']:8.1f} {row['bpw']:6.3f} " + "{:8.0f} {:8.0f} {:10.0f} {:11.0f} {:8.0f}".format(*sizes),
                flush=True,
            )
    machine.save(options.json, {"machine": facts, "threads": options.threads, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--threads", type=int, default=0, help="threads of the encoder, 0 for all")
    parser.add_argument("--folder", type=Path, help="where the temporary folder of about 4 GB goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def tensors() -> list[TensorSpec]:
    """Names and shapes of the checkpoint, from its configuration."""
    hidden, inner, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    narrow = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden), "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for index in range(CONFIG["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]


def write_checkpoint(folder: Path, random: np.random.Generator) -> None:
    """Normal weights of deviation 0.02 in bfloat16, a few thousand rows at a time."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    specs = tensors()
    layout = plan_shards([(spec,) for spec in specs], 1_000_000_000)
    for name, shard in layout.items():
        with (folder / name).open("wb") as file:
            file.write(build_header(shard, {"format": "pt"}))
            for spec in shard:
                rows, width = spec.shape[0], int(np.prod(spec.shape[1:]))
                for begin in range(0, rows, ROWS_AT_ONCE):
                    values = random.standard_normal((min(ROWS_AT_ONCE, rows - begin), width), np.float32) * np.float32(0.02)
                    file.write((values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).data)
    write_index(folder, {spec.name: name for name, shard in layout.items() for spec in shard}, sum(spec.nbytes for spec in specs))


def quantize(source: Path, destination: Path, scheme: str, threads: int) -> dict[str, float]:
    """One run in a process of its own; what it wrote is deleted."""
    command = [sys.executable, "-c", WORKER, str(source), str(destination), scheme, str(threads)]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for path in destination.iterdir():
        path.unlink()
    destination.rmdir()
    return row


if __name__ == "__main__":
    raise SystemExit(main())
