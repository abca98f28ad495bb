"""From real checkpoints to measured k-bit models: the loss, divergence and true size of a few schemes, and the way back.

    python benchmarks/foundation.py                                   every model, both texts in full
    python benchmarks/foundation.py --models quill-0.4m --limit-tokens 20000 --json FILE

For each model and scheme: encode the folder; evaluate it on kbit's kernels against its original on WikiText-2 raw (test) and on books
that the models never saw; decode it to an ordinary checkpoint, and compare that checkpoint's logits in transformers with those of the
packed model in exact mode. Brackets are 95 % intervals over the chunks of a text. All schemes of a model pass over a text together,
so its original runs once.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import machine
from kbit import native
from kbit.evaluate.divergence import Comparison, compare_all
from kbit.evaluate.folder import open_source
from kbit.evaluate.logits import ModelLogits, batches, inference
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.evaluate.size import SizeReport, stored_size
from kbit.evaluate.windows import Windows, read_text, tokenize
from kbit.model import decode, quantize_folder

SCHEMES = ("nf4:g64", "int3:g64", "log4:g64", "kmeans3:g128")
TEXTS = {"wikitext-2": "wiki.test.raw", "books": "books-heldout"}
#: largest difference of logits between a decoded checkpoint and the packed model in exact mode
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Encoded:
    """A model under one scheme: its folder, true size, and how far its decoded checkpoint's logits lie from its own."""

    scheme: str
    folder: Path
    size: SizeReport
    seconds: float
    decoded_difference: float


def main() -> int:
    options = arguments()
    facts = machine.print_header("foundation: encode, evaluate, decode")
    torch.set_num_threads(native.threads())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kbit-foundation-") as work:
        for name in options.models:
            source = options.data / "models" / name
            windows = {text: cut(options, source, file) for text, file in TEXTS.items()}
            encoded = [encode(source, Path(work, f"{name}-{i}"), scheme, windows["wikitext-2"]) for i, scheme in enumerate(options.schemes)]
            for text, text_windows in windows.items():
                print(f"\n{name} on {text}: {text_windows.protocol.text}", flush=True)
                rows += evaluate(name, source, text, text_windows, encoded, options.mode)
    worst = max(row["decoded_difference"] for row in rows)
    verdict = "within" if worst <= TOLERANCE else "BEYOND"
    print(f"\nlargest difference of logits, decoded checkpoint against packed model in exact mode: {worst:.2e} ({verdict} {TOLERANCE:.0e})")
    machine.save(options.json, {"benchmark": "foundation", "machine": facts, "mode": options.mode, "rows": rows})
    return 0 if worst <= TOLERANCE else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("KBIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder with models/ and text/; by default that of KBIT_SHARED")
    parser.add_argument("--models", nargs="+", help="folders below models/; all of them by default")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--limit-tokens", type=int, help="tokens of each text; all by default")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--mode", default="fast", choices=("fast", "exact"), help="arithmetic of the evaluated models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.data / "models").is_dir():
        parser.error(f"no models in {options.data}: give --data or set KBIT_SHARED")
    options.models = options.models or sorted(folder.name for folder in (options.data / "models").iterdir() if folder.is_dir())
    return options


def cut(options: argparse.Namespace, source: Path, file: str) -> Windows:
    tokens = tokenize(read_text(options.data / "text" / file), load_tokenizer(source))
    return Windows(tokens, context=options.context, limit_tokens=options.limit_tokens)


def encode(source: Path, folder: Path, scheme: str, windows: Windows) -> Encoded:
    started = time.perf_counter()
    quantize_folder(source, folder, scheme, progress=False)
    seconds = time.perf_counter() - started
    decoded = folder.with_name(f"{folder.name}-decoded")
    decode(folder, decoded)
    return Encoded(scheme, folder, stored_size(folder), seconds, logit_difference(folder, decoded, windows))


def logit_difference(folder: Path, decoded: Path, windows: Windows) -> float:
    """Largest absolute difference between the logits of both folders on the first batch of windows."""
    packed, ordinary = ModelLogits(load_causal_model(folder, mode="exact")), ModelLogits(load_causal_model(decoded))
    batch = next(batches(windows, None, packed.vocabulary))
    with inference(packed.model, ordinary.model):
        return max(float((a - b).abs().max()) for a, b in zip(packed.rows(batch), ordinary.rows(batch), strict=True))


def evaluate(name: str, source: Path, text: str, windows: Windows, encoded: list[Encoded], mode: str) -> list[dict[str, Any]]:
    """A row for each scheme, printed as a table."""
    models = [open_source(item.folder, mode=mode) for item in encoded]
    found = compare_all(models, load_causal_model(source), windows, progress=None)
    print(
        f"16 bits: perplexity {found[0].reference.perplexity.format('.3f')}, {found[0].reference.bits_per_byte.format('.4f')} bits a byte"
    )
    sizes, loss = f"{'scheme':<14}{'bpw':>7}{'file':>7}  ", f"{'perplexity':<27}{'over 16 bits':<25}"
    print(f"{sizes}{loss}{'KL':<27}{'KL 99 %':<9}{'same top-1':<25}{'|Δlogit|':>9}")
    for item, comparison in zip(encoded, found, strict=True):
        print(line(item, comparison), flush=True)
    return [row(name, text, item, comparison) for item, comparison in zip(encoded, found, strict=True)]


def line(item: Encoded, comparison: Comparison) -> str:
    distance = comparison.divergence
    sizes = f"{item.size.bpw:>7.3f}{item.size.bpw_file or 0:>7.3f}"
    loss = f"{comparison.loss.perplexity.format('.3f'):<27}{distance.perplexity_ratio.format('.4f'):<25}"
    kl = f"{distance.kl_mean.format('.5f'):<27}{distance.kl_p99.value:<9.4f}"
    return f"{item.scheme:<14}{sizes}  {loss}{kl}{distance.top1_agreement.format('.4f'):<25}{item.decoded_difference:>9.1e}"


def row(name: str, text: str, item: Encoded, comparison: Comparison) -> dict[str, Any]:
    loss, distance = comparison.loss.to_json(), comparison.divergence.to_json()
    return {
        "model": name,
        "text": text,
        "scheme": item.scheme,
        **loss,
        **distance,
        "intervals": loss["intervals"] | distance["intervals"],
        "reference": comparison.reference.to_json(),
        **item.size.to_json(),
        "quantize_seconds": item.seconds,
        "decoded_difference": item.decoded_difference,
    }


if __name__ == "__main__":
    raise SystemExit(main())
