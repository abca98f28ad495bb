"""What `kbit demo` measures: the embedded model at every k by every data type, each really written, loaded and run.

The original runs over the text once and its logits are kept; every encoded model is held against them on the same windows. Each row
takes the whole way: encode into a folder, load the folder, evaluate, time the writing of text, weigh the files.
"""

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

from kbit import native
from kbit.cli.tradeoff import NAMES, Row
from kbit.cli.writer import EngineWriter
from kbit.core.installation import package_version
from kbit.core.plan import Plan
from kbit.core.progress import Progress
from kbit.core.scheme import Scheme
from kbit.core.sizes import count_text
from kbit.engine.beam_options import BeamOptions
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.sampling_options import SamplingOptions
from kbit.evaluate.divergence import compare
from kbit.evaluate.folder import open_source
from kbit.evaluate.intervals import Estimate
from kbit.evaluate.logits import ReferenceLogits
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.evaluate.perplexity import perplexity
from kbit.evaluate.size import stored_size
from kbit.evaluate.speed import open_runner
from kbit.evaluate.windows import Windows, read_text, tokenize
from kbit.model.quantize import quantize_folder

__all__ = ["CONTEXT", "EMBEDDING", "PROMPT", "Experiment", "plans"]

CONTEXT = 512
GROUP_SIZE = 64
#: scheme of the embedding, which is the head too in this model: a quarter of its weights, held constant so that k alone changes
EMBEDDING = "int8:g64"
#: characters for a token: the books have 3.7, and the rest is room for what the cut loses
CHARACTERS_PER_TOKEN = 4.2
DECODE_TOKENS = 64
PROMPT = "It was a dark night, and the old man"
WRITING = GenerateOptions(max_tokens=90, beam=BeamOptions(beams=5), sampling=SamplingOptions(no_repeat_ngram=3))


def plans(bits: Sequence[int]) -> list[Plan]:
    """A plan for each data type at each k."""
    embedding = Scheme.parse(EMBEDDING)
    schemes = [Scheme.parse(f"{grid}{k}{_detail(grid, k)}:g{GROUP_SIZE}") for grid in NAMES for k in bits]
    return [Plan(default=scheme, embedding=embedding, head=embedding) for scheme in schemes]


def _detail(grid: str, bits: int) -> str:
    """Log grids keep eight octaves (all they have below k = 4) and spend further bits on steps between powers of two."""
    return f"r{2 ** (bits - 4)}" if grid == "log" and bits > 4 else ""


@dataclass(frozen=True, slots=True)
class Texts:
    """The prompt, and what the 16-bit and the recommended model wrote after it."""

    prompt: str
    whole: Generated
    best: Generated


class Experiment:
    """Use as a context manager: it keeps the original's logits and a temporary folder.

    Args:
        bits: the k to try.
        tokens: tokens of text at most, the same share of every book.
    """

    name = "quill-4.2m"

    def __init__(self, bits: Sequence[int], tokens: int) -> None:
        self.plans = plans(bits)
        data = Path(str(files("kbit").joinpath("data")))
        self.source = data / self.name
        self.tokenizer = load_tokenizer(self.source)
        self.windows = Windows(tokenize(_text(data / "books", tokens), self.tokenizer), context=CONTEXT, limit_tokens=tokens)
        self.original = load_causal_model(self.source)
        self._folder = tempfile.TemporaryDirectory(prefix="kbit-demo-")
        self._reference: ReferenceLogits | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.cleanup()
        if self._reference is not None:
            self._reference.close()

    def rows(self) -> list[Row]:
        """The original's row, then one for each plan."""
        with Progress(len(self.plans) + 1, "models", "demo") as bar:
            rows = []
            for row in self._measured():
                rows.append(row)
                bar.advance(note=row.scheme)
        return rows

    def _measured(self) -> Iterator[Row]:
        self._reference = ReferenceLogits.compute(self.original, self.windows)
        yield self._whole(self._reference)
        for plan in self.plans:
            yield self._encoded(plan, self._reference)

    def _whole(self, reference: ReferenceLogits) -> Row:
        size, loss = stored_size(self.source), perplexity(reference, self.windows)
        low, high = _bounds(loss.perplexity)
        return Row(
            scheme="16",
            grid="none",
            k=16,
            bpw=size.bpw,
            file_bytes=size.file_bytes or 0,
            perplexity=loss.perplexity.value,
            perplexity_low=low,
            perplexity_high=high,
            ratio_high=1.0,
            kl_mean=0.0,
            kl_low=0.0,
            kl_high=0.0,
            top1_agreement=1.0,
            decode_tokens_per_s=_decode_speed(self.source),
        )

    def _encoded(self, plan: Plan, reference: ReferenceLogits) -> Row:
        folder = Path(self._folder.name) / plan.default.text.replace(":", "-")
        quantize_folder(self.source, folder, plan, threads=_cores(), progress=False)
        size, model = stored_size(folder), open_source(folder)
        found = compare(model, reference, self.windows)
        loss, distance = found.loss.perplexity, found.divergence
        low, high = _bounds(loss)
        kl_low, kl_high = _bounds(distance.kl_mean)
        return Row(
            scheme=plan.default.text,
            grid=plan.default.grid,
            k=plan.default.bits,
            bpw=size.bpw,
            file_bytes=size.file_bytes or 0,
            perplexity=loss.value,
            perplexity_low=low,
            perplexity_high=high,
            ratio_high=_bounds(distance.perplexity_ratio)[1],
            kl_mean=distance.kl_mean.value,
            kl_low=kl_low,
            kl_high=kl_high,
            top1_agreement=distance.top1_agreement.value,
            decode_tokens_per_s=_decode_speed(folder),
        )

    def keep(self, row: Row, folder: Path) -> None:
        """Write the model of a row to `folder`; the same bytes as those that were measured."""
        plan = next(plan for plan in self.plans if plan.default.text == row.scheme)
        quantize_folder(self.source, folder, plan, overwrite=True, threads=_cores(), progress=False)

    def texts(self, packed: Path) -> Texts:
        """The prompt continued by the original and by the model in `packed`, same settings."""
        return Texts(PROMPT, *(EngineWriter(folder).write(PROMPT, WRITING) for folder in (self.source, packed)))

    @property
    def caption(self) -> str:
        """What a reader of the table must know."""
        return (
            f"Groups of {GROUP_SIZE} weights share an fp16 scale; float4e2 has 2 exponent bits, log5r2 2 levels an octave. Embedding and "
            f"head are one tensor here, stored as {EMBEDDING} in every k-bit row; activations are rounded to int8 (fast mode), which with "
            f"the embedding sets the floor that the curves reach at k = 8. The 16-bit row is the original file, run in float32. "
            f"Tokens/s: one sequence, {count_text(native.threads(), 'thread')}, in kbit's engine. "
            f"Text: excerpts of eight books that the model never saw; "
            f"{self.windows.protocol.text}."
        )

    def facts(self) -> dict[str, str]:
        """Versions and machine."""
        return {
            "kbit": package_version(),
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
            "Python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {native.isa()}, {count_text(native.threads(), 'thread')}",
            "arithmetic": "fast mode: int8 activations per group",
            "text": f"{len(self.windows)} windows of {CONTEXT} tokens, {self.windows.protocol.tokens:,} tokens",
        }


def _bounds(estimate: Estimate) -> tuple[float, float]:
    """The interval; the value itself where there is none (a single window)."""
    low = estimate.value if estimate.low is None else estimate.low
    return low, estimate.value if estimate.high is None else estimate.high


def _cores() -> int:
    """Encoding uses every core; its bytes do not depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(folder: Path, tokens: int) -> str:
    """The beginning of each excerpt, to the end of a word."""
    texts = [read_text(file) for file in sorted(folder.glob("*.txt"))]
    share = int(tokens * CHARACTERS_PER_TOKEN / len(texts))
    return "\n\n".join(text if len(text) <= share else text[: text.rindex(" ", 0, share)] for text in texts)


def _decode_speed(folder: Path) -> float:
    """Tokens a second of writing one sequence in the engine: the median of three short runs. `kbit bench` does it thoroughly."""
    runner = open_runner(folder)
    seconds = []
    with runner.threads(native.threads()):
        for _ in range(4):
            runner.prefill([0] * 16)
            started = time.perf_counter()
            for _ in range(DECODE_TOKENS):
                runner.decode()
            seconds.append(time.perf_counter() - started)
    return DECODE_TOKENS / median(seconds[1:])
