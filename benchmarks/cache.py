"""What a smaller KV cache costs: loss and divergence of each format against fp32, by position, and its true bytes a position.

    python benchmarks/cache.py --model DIR [--text FILE …] [--context N] [--limit-tokens N] [--json FILE]

The text is cut into windows of the model's whole context; each window is read token block by token block through the cache, so that late
positions attend to many quantized ones. Weights and arithmetic are the same in all rows (exact mode): only the cache differs. KL is from
the fp32 cache's predictions, in nats a token, over all positions and over the last quarter of the context.
"""

import argparse
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tokenizers import Tokenizer

import machine
from kbit.engine.engine import CacheFormat, Engine
from kbit.engine.feeds import Feed

#: tokens a step: keys are read back from the cache by every later one
STEP = 16


def main() -> int:
    options = arguments()
    facts = machine.print_header("KV cache formats: loss against fp32")
    tokens = read_tokens(options)
    rows = []
    reference: list[np.ndarray] = []
    print(f"{'cache':<6}{'bytes/position':>15}{'loss':>9}{'KL':>10}{'KL, last quarter':>18}{'same top-1':>12}")
    for cache in get_args(CacheFormat):
        engine = Engine.load(options.model, mode="exact", cache=cache, cache_positions=2 * options.context)
        windows = [tokens[begin : begin + options.context] for begin in range(0, len(tokens) - options.context + 1, options.context)]
        found = [log_probabilities(engine, window) for window in windows]
        reference = reference or found
        rows.append(row(cache, engine, windows, found, reference))
        print(
            "{cache:<6}{bytes_per_position:>15.0f}{loss:>9.4f}{kl_mean:>10.5f}{kl_late:>18.5f}{top1:>12.4f}".format(**rows[-1]), flush=True
        )
    machine.save(
        options.json, {"benchmark": "cache", "machine": facts, "model": options.model.name, "context": options.context, "rows": rows}
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("KBIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    parser.add_argument("--model", type=Path, default=shared / "models" / "quill-4.5m")
    parser.add_argument("--text", type=Path, nargs="+", default=sorted((shared / "text" / "books-heldout").glob("*.txt")))
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--limit-tokens", type=int, default=16384, help="of all texts together, the same share of each")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def read_tokens(options: argparse.Namespace) -> list[int]:
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    share = options.limit_tokens // len(options.text) // options.context * options.context
    tokens: list[int] = []
    for path in options.text:
        tokens += tokenizer.encode(path.read_text(encoding="utf-8")[: 8 * share]).ids[:share]
    return tokens


def log_probabilities(engine: Engine, window: list[int]) -> np.ndarray:
    """Log-probabilities [context, vocabulary] after each token of a window."""
    sequence = engine.sequence()
    parts = [engine.step([Feed(sequence, window[begin : begin + STEP], "all")]) for begin in range(0, len(window), STEP)]
    engine.free(sequence)
    logits = np.concatenate(parts).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def row(cache: str, engine: Engine, windows: list[list[int]], found: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, Any]:
    divergence = np.stack([(np.exp(want) * (want - got)).sum(axis=1) for want, got in zip(reference, found, strict=True)])
    loss = [-float(got[np.arange(len(window) - 1), window[1:]].mean()) for window, got in zip(windows, found, strict=True)]
    same = [float((got.argmax(axis=1) == want.argmax(axis=1)).mean()) for want, got in zip(reference, found, strict=True)]
    return {
        "cache": cache,
        "bytes_per_position": engine.cache_bytes_per_position,
        "loss": float(np.mean(loss)),
        "kl_mean": float(divergence.mean()),
        "kl_late": float(divergence[:, -divergence.shape[1] // 4 :].mean()),
        "top1": float(np.mean(same)),
        "windows": len(windows),
    }


if __name__ == "__main__":
    raise SystemExit(main())
