"""What rotation is for: a model whose channels differ widely in size, as those of large models do, with and without ``rotate``.

    python benchmarks/channel_outliers.py [--factor 32] [--channels 4] [--schemes …] [--json FILE]

The model computes what it did: in every layer some channels of both norms are multiplied by a power of two, and the columns of the matrices
that read them divided by it (bfloat16 holds both exactly). Factors above one make outliers of activations (`activations`), below one of
weights (`weights`). Scores are those of `quality.py`, by the engine in fast mode, whose int8 activations are part of the question.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import machine
import quality

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
SCHEMES = ["int4:g64", "int4:g64+rotate", "int3:g64+imp+gptq", "int3:g64+rotate+imp+gptq"]


def main() -> int:
    options = arguments()
    facts = machine.print_header(f"{options.channels} channels of {options.model.name} {options.factor:g} times as large")
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="kbit-outliers-") as work:
        for name, factor in (("activations", options.factor), ("weights", 1 / options.factor), ("as it is", 1.0)):
            print(f"\noutliers: {name}", flush=True)
            model = scaled(options.model, Path(work) / "model", factor, options.channels)
            chosen = argparse.Namespace(**{**vars(options), "model": model, "engine": True})
            found[name] = quality.run(chosen, Path(work))
            machine.save(options.json, {"benchmark": "channel_outliers", "machine": facts, **settings(options), "rows": found})
            for folder in Path(work).iterdir():
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=quality.DATA / "models" / "quill-4.5m")
    parser.add_argument("--factor", type=float, default=32.0, help="a power of two")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32_768, help="of the calibration text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def settings(options: argparse.Namespace) -> dict[str, Any]:
    kept = {key: getattr(options, key) for key in ("factor", "channels", "windows", "seed")}
    return {"model": options.model.name, "calibration_tokens": options.tokens, "runner": "engine, fast mode", **kept}


def scaled(source: Path, target: Path, factor: float, channels: int) -> Path:
    """The model with `channels` channels of every norm times `factor`, the same for both norms of all layers, computing the same."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    width = tensors["model.norm.weight"].numel()
    chosen = torch.from_numpy(np.random.default_rng(0).choice(width, channels, replace=False))
    for name in list(tensors):
        layer, _, norm = name.removesuffix(".weight").rpartition(".")
        for reader in READERS.get(norm, ()):
            tensors[f"{layer}.{reader}.weight"][:, chosen] /= factor
        if norm in READERS:
            tensors[name][chosen] *= factor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


if __name__ == "__main__":
    raise SystemExit(main())
