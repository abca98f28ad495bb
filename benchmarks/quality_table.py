"""The table of quality per bit: every recipe and scheme of kbit beside other tools, each row measured once and kept.

    python benchmarks/quality_table.py [--only recipe ggml …] [--json FILE] [--work DIR] [--docs docs/quality.md] [--plot FILE.svg]

Linear layers only, embeddings in 16 bits. All of them are decoded to float32 and run through one scorer: KL divergence from the original
and perplexity on the held-out books, and on the test split of WikiText-2 (raw): windows of 512 tokens at even distances over either text.
Calibration is on the training books alone.

    recipe     `kbit quantize --target-bpw B --quality best` at eight sizes
    uniform    one scheme for all weights
    ablation   each method, type and part alone and together (`benchmarks/quality_ablation.py`)
    ggml       llama.cpp's types with an importance matrix            peers    NF4 of bitsandbytes, HQQ, GPTQ as published

A row that is in FILE already, of the same settings and the same code that encodes, is not measured again; --fresh forgets them. With
--only, rows of other parts stay as they are, each with the digest of the code that it is of. At the end the best row of kbit is held
against the best of the others at each of the eight sizes.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import machine
from kbit.allocate.decide import Request, decide
from kbit.calibrate import CalibrationText
from kbit.core.digest import digest_file
from kbit.core.strict_json import parse_json
from kbit.evaluate import ReferenceLogits, compare, read_text, tokenize
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.model import decode, quantize_folder
from quality import CONTEXT, DATA, spread, training_excerpt
from quality_ablation import ABLATION, BOTH
from quality_peers import GGML_TYPES, Linears, ggml_missing, ggml_type, hqq_missing, hqq_package, nf4, plain_gptq
from quality_report import TARGETS, comparison, print_comparison, write_docs, write_plot

SOURCE = Path(__file__).resolve().parents[1]
#: what a row of kbit depends on, beside its settings; a recipe also on how bits are shared out
_ENCODING = ("calibrate/*", "encoders/*", "grids/*", "native/*", "tensor/*")
_SHARING = tuple(
    f"allocate/{name}"
    for name in ("ladder", "units", "encodings", "divergence", "search", "derived", "sensitivity", "knapsack", "solve", "budget")
)
TEXTS = {"books": DATA / "text" / "books-heldout", "wikitext2": DATA / "text" / "wiki.test.raw"}
UNIFORM = (
    *(f"kmeans{bits}:g64{BOTH}" for bits in (2, 3, 4)), *(f"trellis{bits}:g128{BOTH}" for bits in (1, 2, 3, 4)),
    f"vq2d3:g96{BOTH}", f"vq3d2:g64{BOTH}", f"kmeans5:g128{BOTH}", f"kmeans6:g128{BOTH}", f"int8:g128{BOTH}",
)  # fmt: skip
HQQ = (2, 3, 4)
GPTQ_BITS = (2, 3, 4)

#: (source of logits, bits a weight, what else to note)
Made = tuple[Any, float, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """A row to measure: its part of the table, the tool, its name, and what makes the model."""

    part: str
    tool: str
    name: str
    make: Callable[["Bench"], Made]


class Bench:
    """The model with its texts."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.folder, self.work, self.seed, self.tokens = options.model, work, options.seed, options.tokens
        self.calibration = CalibrationText((training_excerpt(work),), tokens=options.tokens, seed=options.seed)
        tokenizer = load_tokenizer(options.model)
        self.linears = Linears(options.model, self.calibration.windows(tokenizer, positions=CONTEXT), work)
        self.windows = {name: spread(tokenize(read_text(path), tokenizer), options.windows) for name, path in TEXTS.items()}
        self.references = {
            name: ReferenceLogits.compute(load_causal_model(options.model), windows) for name, windows in self.windows.items()
        }

    def packed(self, plan: Any, calibration: Any = None) -> Made:
        """A model encoded by kbit, decoded again."""
        folder = self.work / "packed"
        found = quantize_folder(
            self.folder,
            folder,
            plan,
            calibration=calibration or self.calibration,
            fold="none",
            progress=False,
            overwrite=True,
            resume=False,
        )
        return decode(folder), found.bpw, {}

    def score(self, model: nn.Module) -> dict[str, Any]:
        """Figures of a model on both texts; those of WikiText-2 have its name before them."""
        figures: dict[str, Any] = {}
        for name, windows in self.windows.items():
            found = compare(model, self.references[name], windows)
            divergence, before = found.divergence, "" if name == "books" else f"{name}_"
            figures |= {
                f"{before}kl_mean": divergence.kl_mean.value,
                f"{before}kl_mean_low": divergence.kl_mean.low,
                f"{before}kl_mean_high": divergence.kl_mean.high,
                f"{before}kl_p99": divergence.kl_p99.value,
                f"{before}top1_agreement": divergence.top1_agreement.value,
                f"{before}perplexity": found.loss.perplexity.value,
                f"{before}reference_perplexity": found.reference.perplexity.value,
            }
        return figures


def lines() -> Iterator[Line]:
    """All rows."""
    for bpw in TARGETS:
        yield Line("recipe", "kbit recipe", f"--target-bpw {bpw:g}", partial(recipe, bpw=bpw))
    for kind in GGML_TYPES:
        yield Line("ggml", "llama.cpp", kind, partial(ggml, kind=kind))
    yield from peer_lines()
    for part, texts in (("uniform", UNIFORM), ("ablation", [text for text in ABLATION if text not in UNIFORM])):
        for text in texts:
            yield Line(part, "kbit", text, partial(scheme, text=text))


def peer_lines() -> Iterator[Line]:
    for double in (False, True):
        yield Line("peers", "bitsandbytes", f"NF4 g64{', double quantization' if double else ''}", partial(bitsandbytes, double=double))
    for bits in HQQ:
        text = f"int{bits}:g64:asym+hqq"
        packaged = Line("peers", "HQQ", f"{bits} bits g64", partial(hqq, bits=bits))
        yield packaged if hqq_missing() is None else Line("peers", "HQQ", f"{text}, by kbit", partial(scheme, text=text))
    for bits in GPTQ_BITS:
        yield Line("peers", "GPTQ", f"{bits} bits g128 asymmetric", partial(published_gptq, bits=bits))


def scheme(bench: Bench, text: str) -> Made:
    return bench.packed(text)


def recipe(bench: Bench, bpw: float) -> Made:
    request = Request(bench.work / "losses.journal", bpw=bpw, calibration=bench.calibration, progress=False)
    decision = decide(bench.folder, request)
    assert decision.allocation is not None
    source, stored, _ = bench.packed(decision.plan, decision.calibration)
    chosen = {name: found.text for name, found in decision.allocation.chosen.items()}
    return source, stored, {"target_bpw": bpw, "predicted_kl": decision.allocation.predicted_kl, "chosen": chosen}


def ggml(bench: Bench, kind: str) -> Made:
    return (*ggml_type(bench.linears, kind, bench.work), {})


def bitsandbytes(bench: Bench, double: bool) -> Made:
    return (*nf4(bench.linears, double), {})


def hqq(bench: Bench, bits: int) -> Made:
    return (*hqq_package(bench.linears, bits, 64), {})


def published_gptq(bench: Bench, bits: int) -> Made:
    with plain_gptq():
        source, _, _ = bench.packed(f"int{bits}:g128:asym+gptq")
    return source, bits + (16 + bits) / 128, {}  # an fp16 scale and a zero point of as many bits as a code


def main() -> int:
    options = arguments()
    facts = machine.print_header(f"quality of {options.model.name}: linear layers, {options.windows} windows of {CONTEXT} tokens")
    missing = {"llama.cpp": ggml_missing(), "HQQ's package": hqq_missing()}
    missing = {name: reason for name, reason in missing.items() if reason}
    for name, reason in missing.items():
        print(f"{name}: {reason}")
    settings = {"model": options.model.name, "windows": options.windows, "context": CONTEXT, "calibration_tokens": options.tokens}
    settings |= {"seed": options.seed, "runner": "decoded to float32"}
    result: dict[str, Any] = {"benchmark": "quality", "machine": facts, **settings, "missing": missing, "rows": []}
    kept = {} if options.fresh else known_rows(options.json, settings)
    wanted = [line for line in lines() if not (line.tool == "llama.cpp" and "llama.cpp" in missing)]
    with tempfile.TemporaryDirectory(prefix="kbit-quality-") as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        bench: Bench | None = None
        model = digest_file(options.model / "model.safetensors")
        encoding, packaged = code_digest(_ENCODING), hqq_missing() is None
        codes = {"llama.cpp": "", "bitsandbytes": "", "kbit recipe": code_digest((*_ENCODING, *_SHARING))}
        codes["HQQ"] = "" if packaged else encoding
        for line in wanted:
            key = {"model_sha256": model, "code": codes.get(line.tool, encoding)}
            row = kept.pop((line.tool, line.name), None)
            known = row is not None and {name: row.get(name) for name in key} == key
            if not known and (not options.only or line.part in options.only):
                bench = bench or Bench(options, work)
                row = measured(line, bench) | key
                print(shown(row), flush=True)
            if row is None:
                continue
            result["rows"].append(row)
            machine.save(options.json, result | {"rows": [*result["rows"], *kept.values()]}, quiet=True)
    result["comparison"] = comparison(result["rows"])
    print_comparison(result["comparison"])
    machine.save(options.json, result)
    if options.plot:
        write_plot(options.plot, result)
    if options.docs:
        write_docs(options.docs, result)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DATA / "models" / "quill-4.5m")
    parser.add_argument("--only", nargs="+", choices=("recipe", "ggml", "peers", "uniform", "ablation"), help="parts to measure")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the calibration text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of the file")
    parser.add_argument("--work", type=Path, help="folder to keep losses in")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG file to draw")
    parser.add_argument("--docs", type=Path, help="page whose tables to write anew")
    return parser.parse_args()


def measured(line: Line, bench: Bench) -> dict[str, Any]:
    started = time.perf_counter()
    source, bpw, more = line.make(bench)
    seconds = time.perf_counter() - started
    return {"part": line.part, "tool": line.tool, "name": line.name, "bpw": bpw, **bench.score(source), **more, "seconds": seconds}


def shown(row: dict[str, Any]) -> str:
    figures = f"{row['bpw']:>7.3f}{row['kl_mean']:>9.4f}{row['perplexity']:>9.3f}{row['wikitext2_kl_mean']:>9.4f}{row['seconds']:>7.0f} s"
    return f"{row['tool']:<13}{row['name']:<32}{figures}"


def known_rows(path: Path | None, settings: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of a file that was measured with the same settings."""
    if path is None or not path.exists():
        return {}
    value = parse_json(path.read_bytes(), str(path))
    if {name: value.get(name) for name in settings} != settings:
        return {}
    return {(row["tool"], row["name"]): row for row in value["rows"] if "tool" in row}


def code_digest(modules: tuple[str, ...]) -> str:
    """Digest of the source that chooses codes."""
    digest = hashlib.sha256()
    files = [path for module in modules for path in (SOURCE / "src" / "kbit").glob(f"{module}.py")]
    for path in sorted([*files, *(SOURCE / "csrc" / "encode").glob("*")]):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
