"""What schemes and methods cost: bits a weight, KL divergence from the original, agreement of the most likely token.

    python benchmarks/quality.py --table …      all of it beside other tools: see `benchmarks/quality_table.py`
    python benchmarks/quality.py [--model DIR] [--schemes int3:g64 int3:g64+gptq …] [--windows 32] [--json FILE]

Linear layers only; embeddings stay in 16 bits. Calibration is on an excerpt of the training books (stretches from all over them, drawn by
a seed), scores are on the held-out books: windows of 512 tokens at even distances over all of them. The packed folder is
decoded to float32 for it, so that the figures are of the weights alone, as ggml's are here (--engine runs it in kbit's engine in fast
mode, which adds int8 activations). The last column puts the row beside ggml's types with an importance matrix from the training text:
their KL at the same bits, by a line through log KL.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import machine
from kbit.calibrate import CalibrationText
from kbit.evaluate import ReferenceLogits, Windows, compare, read_text, tokenize
from kbit.evaluate.engine_logits import EngineLogits
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.evaluate.windows import TokenizedText
from kbit.model import decode, quantize_folder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CONTEXT = 512
#: (type, bits a weight, KL in nats a token, top-1 agreement) of llama.cpp's types with an importance matrix, 4.5M model, held-out books
ANCHORS = (
    ("IQ2_XXS", 2.06, 0.0971, 0.771),
    ("IQ2_XS", 2.31, 0.0699, 0.799),
    ("IQ2_S", 2.56, 0.0476, 0.833),
    ("Q2_K", 2.63, 0.0584, 0.816),
    ("IQ3_XXS", 3.06, 0.0238, 0.879),
    ("IQ3_S", 3.44, 0.0133, 0.906),
    ("Q3_K", 3.44, 0.0159, 0.900),
    ("IQ4_XS", 4.25, 0.0042, 0.945),
    ("Q4_K", 4.50, 0.0037, 0.952),
    ("Q5_K", 5.50, 0.0009, 0.975),
    ("Q6_K", 6.56, 0.0002, 0.987),
)
#: the best of them at their sizes, which the comparison runs along
FRONTIER = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K")
METHODS = ("", "+imp", "+gptq", "+imp+gptq")
#: each method alone and together
ABLATION = [
    f"{scheme}{method}"
    for scheme in ("int2:g64", "int3:g64")
    for method in ("", ":mse", "+hqq", "+imp", "+awq", "+awq+imp", "+gptq", "+hqq+gptq", "+imp+gptq", "+awq+imp+gptq")
]
SCHEMES = [f"{grid}{bits}:g{group}{method}" for grid in ("int", "nf") for bits in (2, 3, 4) for group in (64, 128) for method in METHODS]


def main() -> int:
    if "--table" in sys.argv:
        import quality_table

        sys.argv.remove("--table")
        return quality_table.main()
    options = arguments()
    facts = machine.print_header(f"quality of {options.model.name}: linear layers, {options.windows} windows of {CONTEXT} tokens")
    with tempfile.TemporaryDirectory(prefix="kbit-quality-") as work:
        rows = run(options, Path(work))
    settings = {"model": options.model.name, "windows": options.windows, "context": CONTEXT, "calibration_tokens": options.tokens}
    settings |= {"seed": options.seed, "runner": "engine, fast mode" if options.engine else "decoded to float32"}
    anchors = [dict(zip(("type", "bpw", "kl_mean", "top1_agreement"), anchor, strict=True)) for anchor in ANCHORS]
    machine.save(options.json, {"benchmark": "quality", "machine": facts, **settings, "rows": rows, "anchors": anchors})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DATA / "models" / "quill-4.5m")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--ablation", action="store_const", const=ABLATION, dest="schemes", help="each method alone and together")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the calibration text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="run the packed model in the engine, in fast mode")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    calibration = CalibrationText((training_excerpt(work),), tokens=options.tokens, seed=options.seed)
    text = tokenize(read_text(DATA / "text" / "books-heldout"), load_tokenizer(options.model))
    windows = spread(text, options.windows)
    reference = ReferenceLogits.compute(load_causal_model(options.model), windows)
    print(f"{'scheme':<32}{'bpw':>7}{'KL':>10}{'top-1':>8}{'seconds':>9}   KL of ggml's best at these bits")
    rows = []
    for scheme in options.schemes:
        rows.append(measure(scheme, options, calibration, windows, reference, work))
        print_row(rows[-1])
    return rows


def measure(
    scheme: str, options: argparse.Namespace, calibration: CalibrationText, windows: Any, reference: Any, work: Path
) -> dict[str, Any]:
    folder = work / scheme.replace(":", "-")
    started = time.perf_counter()
    packed = quantize_folder(options.model, folder, scheme, calibration=calibration, progress=False)
    seconds = time.perf_counter() - started
    found = compare(EngineLogits.load(folder, mode="fast") if options.engine else decode(folder), reference, windows).divergence
    return {
        "scheme": scheme,
        "bpw": packed.bpw,
        "kl_mean": found.kl_mean.value,
        "kl_mean_low": found.kl_mean.low,
        "kl_mean_high": found.kl_mean.high,
        "kl_p99": found.kl_p99.value,
        "top1_agreement": found.top1_agreement.value,
        "perplexity_ratio": found.perplexity_ratio.value,
        "quantize_seconds": seconds,
        "anchor_kl": anchor_kl(packed.bpw),
    }


def print_row(row: dict[str, Any]) -> None:
    beside = "–" if row["anchor_kl"] is None else f"{row['anchor_kl']:.4f} ({row['kl_mean'] / row['anchor_kl'] - 1:+.0%})"
    figures = f"{row['bpw']:>7.3f}{row['kl_mean']:>10.4f}{row['top1_agreement']:>8.3f}{row['quantize_seconds']:>9.1f}"
    print(f"{row['scheme']:<32}{figures}   {beside}", flush=True)


def anchor_kl(bpw: float) -> float | None:
    """KL of ggml's best types at so many bits; None outside of what they span."""
    line = [(bits, kl) for name, bits, kl, _ in ANCHORS if name in FRONTIER]
    for (low, low_kl), (high, high_kl) in pairwise(line):
        if low <= bpw <= high:
            share = (bpw - low) / (high - low)
            return math.exp((1 - share) * math.log(low_kl) + share * math.log(high_kl))
    return None


def training_excerpt(work: Path) -> Path:
    """Every twentieth book of the training text, a megabyte of each at most, as a file of text."""
    packed = DATA / "text" / "books-train.txt.zst"
    books = subprocess.run(["zstd", "-dc", str(packed)], check=True, capture_output=True).stdout.decode().split("\0")
    path = work / "calibration.txt"
    path.write_text("\n\n".join(book[: 1 << 20] for book in books[::20]))
    return path


def spread(text: TokenizedText, count: int) -> Windows:
    """`count` windows at even distances over the whole text, joined; the last token of each is scored by what the next one begins with."""
    step = (len(text.ids) - CONTEXT - 1) // count
    places = np.concatenate([np.arange(index * step, index * step + CONTEXT) for index in range(count)])
    places = np.append(places, places[-1] + 1)  # what the last window predicts
    widths = np.diff(text.byte_ends)[places]
    joined = replace(text, ids=text.ids[places], byte_ends=np.concatenate([[0], np.cumsum(widths)]))
    return Windows(joined, context=CONTEXT, limit_tokens=count * CONTEXT)


if __name__ == "__main__":
    raise SystemExit(main())
