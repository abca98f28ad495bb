"""A BERT-base in k bits beside torch in fp32 and bf16: file size, and sequences a second at length 128, batch 1 and 8.

    python benchmarks/encoder.py [--schemes int4:g128 int8:g128/int6:g128] [--threads 1 2] [--rounds 7] [--json FILE]

Random weights in the shape of bert-base-uncased (110M parameters; vocabulary 30,522). Every matrix is packed, embeddings too; `A/B` packs
those by the scheme B: with their scales, 8 bits everywhere are more than a quarter of 32. All contenders take turns in each round, on the
same token ids; the figure is the median.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import machine
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.model import quantize_folder

LENGTH = 128
Call = Callable[[], Any]


def main() -> int:
    options = arguments()
    facts = machine.print_header("encoder: BERT-base, sequences/s")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="kbit-encoder-") as work:
        rows = run(options, Path(work))
    machine.save(options.json, {"benchmark": "encoder", "machine": facts, "length": LENGTH, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=["int4:g128", "int8:g128/int6:g128"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    model.save_pretrained(work / "fp32")
    half = transformers.BertModel.from_pretrained(work / "fp32", add_pooling_layer=False, dtype=torch.bfloat16).eval()
    engines = {}
    sizes = {"torch fp32": size_of(work / "fp32"), "torch bf16": size_of(work / "fp32") // 2}
    for text in options.schemes:
        matrices, _, tables = text.partition("/")
        others = Scheme.parse(tables or matrices)
        folder = work / text.replace(":", "-").replace("/", "_")
        quantize_folder(work / "fp32", folder, Plan(Scheme.parse(matrices), embedding=others, head=others), progress=False)
        engines[text], sizes[text] = Engine.load(folder), size_of(folder)
    rows = []
    for batch in options.batches:
        ids = np.random.default_rng(1).integers(0, 30522, (batch, LENGTH))
        calls: dict[str, Call] = {"torch fp32": torch_call(model, ids), "torch bf16": torch_call(half, ids)}
        calls |= {name: engine_call(engine, ids) for name, engine in engines.items()}
        for threads in options.threads:
            torch.set_num_threads(threads)
            for engine in engines.values():
                engine.threads = threads
            rows += table(calls, sizes, batch, threads, options.rounds)
    return rows


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def torch_call(model: torch.nn.Module, ids: np.ndarray) -> Call:
    tokens = torch.from_numpy(ids)

    def call() -> Any:
        with torch.inference_mode():
            return model(tokens).last_hidden_state

    return call


def engine_call(engine: Engine, ids: np.ndarray) -> Call:
    texts = [row.tolist() for row in ids]

    def call() -> Any:
        sequences = [engine.sequence() for _ in texts]
        hidden = engine.step([Feed(sequence, text, "all") for sequence, text in zip(sequences, texts, strict=True)])
        for sequence in sequences:
            engine.free(sequence)
        return hidden

    return call


def table(calls: dict[str, Call], sizes: dict[str, int], batch: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["torch fp32"])
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row = {"type": name, "batch": batch, "threads": threads, "sequences_per_s": batch / median, "file_bytes": sizes[name]}
        row |= {"times_torch_fp32": base / median, "of_fp32_file": sizes[name] / sizes["torch fp32"]}
        print(
            "{type:<12} batch {batch}  {threads} thread(s)  {sequences_per_s:8.2f} sequences/s  {times_torch_fp32:5.2f}× torch fp32"
            "   file {of_fp32_file:.3f} of fp32".format(**row),
            flush=True,
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
