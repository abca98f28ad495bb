"""Speed of a model on this machine: prefill, decode, and the share of what memory could deliver.

One repeat is a prefill of `prompt_tokens` tokens and `decode_tokens` steps of one token after it, at batch 1, with a probe of the
memory and multiply-add roofs right before each, since a machine's bandwidth wanders within minutes. Figures are medians over the
repeats; one repeat before them warms up. Decoding must read every weight once a token, so

    decode GB/s = bytes of weights read a token · tokens/s      (weights alone: no activations, no KV cache)

is what the roof is held against.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np

from kbit import native
from kbit.core.errors import ModelError, ShapeError
from kbit.core.memory import peak_rss_bytes
from kbit.engine.architectures import ENCODER_DECODER_TYPES
from kbit.store.check import check_folder

__all__ = ["Runner", "SpeedResult", "bench", "bench_folder", "open_runner"]


class Runner(Protocol):
    """A model in memory that reads a prompt and then writes one token after another.

    Attributes:
        name: ``engine`` or ``transformers``.
        vocabulary: token ids are below it.
        positions: prompt and decode together; None for no limit.
        weight_bytes_per_token: weights read for one token.
    """

    name: str
    vocabulary: int
    positions: int | None
    weight_bytes_per_token: int

    def threads(self, count: int) -> AbstractContextManager[int]:
        """Run with `count` threads (0: all that may be used) inside the block; gives the number."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read a prompt from the beginning; compute the logits after it."""

    def decode(self) -> None:
        """Append the likeliest token and compute the logits after it."""


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """What `bench` measured; `to_json` has these very keys.

    Attributes:
        prefill_tokens_per_s, decode_tokens_per_s: medians over the repeats.
        decode_gb_per_s: 10⁹ bytes of weights read a second while decoding.
        memory_roof_gb_per_s, int8_roof_gmac_per_s: medians of the probes between the repeats.
        threads, isa: what the kernels ran with.
        load_seconds: from the folder to the first logits, first imports included; None for a model that was in memory.
        peak_rss_bytes: of the whole process so far.
        weight_bytes_per_token: weights read for one token.
        prompt_tokens, decode_tokens, repeats: the work of each repeat and their number.
        runner: what ran the model: ``engine`` or ``transformers``.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_gb_per_s: float
    memory_roof_gb_per_s: float
    int8_roof_gmac_per_s: float
    threads: int
    isa: str
    load_seconds: float | None
    peak_rss_bytes: int
    weight_bytes_per_token: int
    prompt_tokens: int
    decode_tokens: int
    repeats: int
    runner: str

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Repeat:
    prefill_s: float
    decode_s: float
    memory_roof: float
    int8_roof: float


def bench(
    runner: Runner,
    *,
    prompt_tokens: int = 512,
    decode_tokens: int = 64,
    threads: int = 0,
    repeats: int = 3,
    load_seconds: float | None = None,
) -> SpeedResult:
    """Measure prefill and decode of a causal language model.

    Args:
        runner: the model.
        prompt_tokens: tokens of the prompt; fewer where the model's positions would not hold prompt and decode (the result says how many).
        decode_tokens: steps of one token.
        threads: 0 takes every core this process may use. Put back afterwards.
        repeats: measured repeats.
        load_seconds: taken over into the result.

    Raises:
        ShapeError: a number below 1, or positions that do not even hold the decode steps.
        ModelError: a model without a KV cache.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("decode_tokens", decode_tokens), ("repeats", repeats)):
        if value < 1:
            raise ShapeError(f"expected {name} of at least 1, got {value}")
    prompt_tokens = _fitting_prompt(runner.positions, prompt_tokens, decode_tokens)
    prompt = [int(token) for token in np.random.default_rng(0).integers(0, runner.vocabulary, prompt_tokens)]
    with runner.threads(threads) as used:
        _repeat(runner, prompt, decode_tokens, used)
        rounds = [_repeat(runner, prompt, decode_tokens, used) for _ in range(repeats)]
    decode_rate = decode_tokens / median(r.decode_s for r in rounds)
    return SpeedResult(
        prefill_tokens_per_s=prompt_tokens / median(r.prefill_s for r in rounds),
        decode_tokens_per_s=decode_rate,
        decode_gb_per_s=runner.weight_bytes_per_token * decode_rate / 1e9,
        memory_roof_gb_per_s=median(r.memory_roof for r in rounds),
        int8_roof_gmac_per_s=median(r.int8_roof for r in rounds),
        threads=used,
        isa=native.isa(),
        load_seconds=load_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        weight_bytes_per_token=runner.weight_bytes_per_token,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=repeats,
        runner=runner.name,
    )


def bench_folder(path: Path | str, *, mode: str = "fast", bits: int | None = None, threads: int = 0, **options: Any) -> SpeedResult:
    """`bench` of a model loaded from its folder; the load is timed up to its first logits. `bits` are those of nested codes or cascades to run."""
    started = time.perf_counter()
    runner = open_runner(path, mode=mode, bits=bits)
    with runner.threads(threads):
        runner.prefill([0])
    return bench(runner, threads=threads, load_seconds=time.perf_counter() - started, **options)


def open_runner(path: Path | str, *, mode: str = "fast", bits: int | None = None) -> Runner:
    """The engine over a model's folder; transformers for an architecture that the engine does not know, and of all its `bits`."""
    from kbit.evaluate.engine_runner import EngineRunner
    from kbit.evaluate.source_runner import SourceRunner

    if check_folder(Path(path)).get("model_type") in ENCODER_DECODER_TYPES:
        return SourceRunner.load(path, mode=mode, bits=bits)
    try:
        return EngineRunner.load(path, mode=mode, bits=bits)
    except ModelError:
        if bits is not None:
            raise
        from kbit.evaluate.torch_runner import TorchRunner

        return TorchRunner.load(path, mode=mode)


def _repeat(runner: Runner, prompt: Sequence[int], steps: int, threads: int) -> _Repeat:
    int8_roof = native.int8_roof(threads)
    started = time.perf_counter()
    runner.prefill(prompt)
    prefill_s = time.perf_counter() - started
    memory_roof = native.memory_roof(threads)
    started = time.perf_counter()
    for _ in range(steps):
        runner.decode()
    return _Repeat(prefill_s, time.perf_counter() - started, memory_roof, int8_roof)


def _fitting_prompt(positions: int | None, prompt_tokens: int, decode_tokens: int) -> int:
    if positions is None:
        return prompt_tokens
    if decode_tokens >= positions:
        raise ShapeError(f"expected fewer decode_tokens than the model's {positions} positions, got {decode_tokens}")
    return min(prompt_tokens, positions - decode_tokens)
