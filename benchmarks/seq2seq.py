"""An encoder with a decoder in k bits beside torch in fp32: file size against fp16, and tokens a second, greedy, batch 1.

    python benchmarks/seq2seq.py [--schemes int8:g64 int7:g64] [--threads 1 2] [--rounds 3] [--json FILE]
                                 [--source 128] [--tokens 64] [--layers 24] [--exact]

Random weights in the shape of T5 1.1 large (750M parameters; vocabulary 32,128, whose table is the head too, as transformers has it now).
Every matrix is packed, the table too; `A/B` packs that by the scheme B. A run encodes a text and writes new tokens until there are
`--tokens`, whatever they are. All contenders take turns in each round, on the same token ids; figures are medians. Sizes are the files', so
scales and codebooks count: 8 bits, and a scale of 16 for 64 weights, are 8.25 a weight, more than half of 16; 7 bits are less.
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
from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.feeds import Feed
from kbit.model import quantize_folder

START = 0
#: seconds until the text is encoded and the first token there, seconds for all tokens, the tokens
Times = tuple[float, float, list[int]]
Call = Callable[[], Times]


def main() -> int:
    options = arguments()
    facts = machine.print_header("seq2seq: T5 1.1 large, tokens/s")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="kbit-seq2seq-") as work:
        sizes, rows = run(options, Path(work))
    shape = {"source": options.source, "tokens": options.tokens, "layers": options.layers}
    machine.save(options.json, {"benchmark": "seq2seq", "machine": facts, **shape, "sizes": sizes, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=["int8:g64", "int7:g64"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=24, help="of each side; fewer to try the script out")
    parser.add_argument("--exact", action="store_true", help="exact mode instead of fast")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(options: argparse.Namespace, work: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    model = build(options.layers)
    model.to(torch.float16).save_pretrained(work / "fp16")
    model.to(torch.float32)
    sizes, engines = [], {}
    for text in options.schemes:
        folder = work / text.replace(":", "-").replace("/", "+")
        quantize_folder(work / "fp16", folder, plan_of(text), progress=False)
        engines[text] = EncoderDecoderEngine.load(folder, mode="exact" if options.exact else "fast")
        sizes.append({"type": text, "file_bytes": size_of(folder), "of_fp16_file": size_of(folder) / size_of(work / "fp16")})
        print("{type:<20} file {file_bytes:,} bytes, {of_fp16_file:.4f} of fp16".format(**sizes[-1]), flush=True)
    source = np.random.default_rng(1).integers(2, 32_000, options.source).tolist()
    calls: dict[str, Call] = {"torch fp32": torch_call(model, source, options.tokens)}
    calls |= {name: engine_call(engine, source, options.tokens) for name, engine in engines.items()}
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for engine in engines.values():
            engine.threads = threads
        rows += table(calls, threads, options.rounds)
    return sizes, rows


def build(layers: int) -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=32_128, d_model=1024, d_kv=64, d_ff=2816, num_layers=layers, num_heads=16, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=START,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    return model


def plan_of(text: str) -> Plan:
    matrices, _, tables = text.partition("/")
    table = Scheme.parse(tables or matrices)
    return Plan(Scheme.parse(matrices), embedding=table, head=table)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


class FirstToken(transformers.StoppingCriteria):  # type: ignore[misc]
    """Never stops: notes when the first token was there."""

    at: float | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Called by transformers after each token."""
        self.at = self.at or time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def torch_call(model: Any, source: list[int], count: int) -> Call:
    ids = torch.tensor([source])
    length = {"min_new_tokens": count, "max_new_tokens": count, "eos_token_id": None, "pad_token_id": START}

    def call() -> Times:
        clock, started = FirstToken(), time.perf_counter()
        with torch.inference_mode():
            row = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, stopping_criteria=[clock], **length)[0]
        assert clock.at is not None
        return clock.at - started, time.perf_counter() - started, row[1:].tolist()

    return call


def engine_call(engine: EncoderDecoderEngine, source: list[int], count: int) -> Call:
    def call() -> Times:
        started = time.perf_counter()
        sequence = engine.sequence(source)
        tokens = [int(engine.step([Feed(sequence, [START])])[0].argmax())]
        first = time.perf_counter() - started
        while len(tokens) < count:
            tokens.append(int(engine.step([Feed(sequence, tokens[-1:])])[0].argmax()))
        engine.free(sequence)
        return first, time.perf_counter() - started, tokens

    return call


def table(calls: dict[str, Call], threads: int, rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[Times]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            found = call()
            if turn:
                times[name].append(found)
    rows = []
    for name, found_times in times.items():
        count = len(found_times[0][2])
        first, whole = (statistics.median(one[place] for one in found_times) for place in (0, 1))
        rest = statistics.median(one[1] - one[0] for one in found_times)
        row = {"type": name, "threads": threads, "first_token_ms": 1e3 * first, "tokens_per_s": count / whole}
        row |= {"decode_tokens_per_s": (count - 1) / rest, "same_tokens": same(found_times[0][2], times["torch fp32"][0][2])}
        row["times_torch_fp32"] = row["tokens_per_s"] / (rows[0]["tokens_per_s"] if rows else row["tokens_per_s"])
        print(
            "{type:<20} {threads} thread(s)  first token after {first_token_ms:7.1f} ms  {tokens_per_s:7.2f} tokens/s with that, "
            "{decode_tokens_per_s:7.2f} without  {times_torch_fp32:5.2f}× torch fp32  first {same_tokens} tokens as torch".format(**row),
            flush=True,
        )
        rows.append(row)
    return rows


def same(tokens: list[int], others: list[int]) -> int:
    """Tokens until the first that differs."""
    return next((place for place, (one, other) in enumerate(zip(tokens, others, strict=True)) if one != other), len(tokens))


if __name__ == "__main__":
    raise SystemExit(main())
