"""Tokens a second of `kbit train`'s step in float32 and under bf16 autocast, for the smallest and the largest size of a recipe.

    python benchmarks/training.py [--recipe FILE] [--steps 2] [--json FILE]

Forward, loss, backward, clip and AdamW on batches of the recipe's size, precisions in turn; the best step of each counts.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import machine
from kbit.store.tokenizer import load_tokenizer
from kbit.train.build import build_model, optimizer_for
from kbit.train.data import end_of_text
from kbit.train.recipe import SizeRecipe, TrainingRecipe

RECIPE = Path(__file__).resolve().parents[1] / "studies" / "quill.recipe.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("training steps")
    recipe = TrainingRecipe.read(options.recipe)
    tokenizer = load_tokenizer(recipe.tokenizer)
    rows = []
    for size in (recipe.sizes[0], recipe.sizes[-1]):
        model = build_model(size, tokenizer, end_of_text(tokenizer), str(recipe.path))
        optimizer = optimizer_for(model, size)
        best = {"fp32": float("inf"), "bf16": float("inf")}
        for _ in range(options.steps + 1):  # the first one warms up
            for precision in ("fp32", "bf16"):
                best[precision] = min(best[precision], step(model, optimizer, size, precision))
        rates = {f"{precision}_tokens_per_s": size.options.batch_tokens / seconds for precision, seconds in best.items()}
        rows.append({"size": size.name, "params": sum(p.numel() for p in model.parameters()), **rates})
        print(f"{size.name:>8}  " + "  ".join(f"{name} {value:,.0f}" for name, value in rates.items()), flush=True)
    result: dict[str, Any] = {"benchmark": "training", "machine": facts, "threads": torch.get_num_threads(), "rows": rows}
    machine.save(options.json, result)
    return 0


def step(model: Any, optimizer: torch.optim.Optimizer, size: SizeRecipe, precision: str) -> float:
    ids = torch.randint(0, model.config.vocab_size, (size.options.batch_windows, size.options.context + 1))
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(ids[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), size.options.clip)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
