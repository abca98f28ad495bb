"""Speed of a model on this machine: prefill, decode, and the share of what memory could deliver.

One repeat is a prefill of `prompt_tokens` tokens and `decode_tokens` steps of one token after it, at batch 1, with a probe of the
memory and multiply-add roofs right before each, since a machine's bandwidth wanders within minutes. Figures are medians over the
repeats; one repeat before them warms up. Decoding must read every weight once a token, so

    decode GB/s = bytes of weights read a token · tokens/s      (weights alone: no activations, no KV cache)

is what the roof is held against.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kbit import native
from kbit.core.errors import ModelError, ShapeError
from kbit.evaluate.logits import inference
from kbit.model.memory import peak_rss_bytes

__all__ = ["SpeedResult", "bench", "bench_folder", "weight_bytes_per_token"]


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
    model: torch.nn.Module,
    *,
    prompt_tokens: int = 512,
    decode_tokens: int = 64,
    threads: int = 0,
    repeats: int = 3,
    load_seconds: float | None = None,
) -> SpeedResult:
    """Measure prefill and decode of a causal language model of transformers' interface (``use_cache``, ``past_key_values``).

    Args:
        model: the model, on the CPU.
        prompt_tokens: tokens of the prompt; fewer where the model's positions would not hold prompt and decode (the result says how many).
        decode_tokens: steps of one token.
        threads: of kbit's kernels and of torch; 0 takes every core this process may use. Both are put back afterwards.
        repeats: measured repeats.
        load_seconds: taken over into the result.

    Raises:
        ShapeError: a number below 1, or positions that do not even hold the decode steps.
        ModelError: a model without a KV cache.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("decode_tokens", decode_tokens), ("repeats", repeats)):
        if value < 1:
            raise ShapeError(f"expected {name} of at least 1, got {value}")
    prompt_tokens = _fitting_prompt(model, prompt_tokens, decode_tokens)
    prompt = torch.randint(0, _vocabulary(model), (1, prompt_tokens), generator=torch.Generator().manual_seed(0))
    with inference(model), _threads(threads) as used:
        _repeat(model, prompt, decode_tokens, used)
        rounds = [_repeat(model, prompt, decode_tokens, used) for _ in range(repeats)]
    decode_rate = decode_tokens / median(r.decode_s for r in rounds)
    read_bytes = weight_bytes_per_token(model)
    return SpeedResult(
        prefill_tokens_per_s=prompt_tokens / median(r.prefill_s for r in rounds),
        decode_tokens_per_s=decode_rate,
        decode_gb_per_s=read_bytes * decode_rate / 1e9,
        memory_roof_gb_per_s=median(r.memory_roof for r in rounds),
        int8_roof_gmac_per_s=median(r.int8_roof for r in rounds),
        threads=used,
        isa=native.isa(),
        load_seconds=load_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        weight_bytes_per_token=read_bytes,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=repeats,
    )


def bench_folder(path: Path | str, *, mode: str = "fast", threads: int = 0, **options: Any) -> SpeedResult:
    """`bench` of a model loaded from its folder; the load is timed up to its first logits."""
    from kbit.evaluate.models import load_causal_model

    started = time.perf_counter()
    with _threads(threads):
        model = load_causal_model(Path(path), mode=mode)
        with inference(model):
            model(torch.zeros(1, 1, dtype=torch.int64))
    return bench(model, threads=threads, load_seconds=time.perf_counter() - started, **options)


def _repeat(model: torch.nn.Module, prompt: torch.Tensor, steps: int, threads: int) -> _Repeat:
    int8_roof = native.int8_roof(threads)
    started = time.perf_counter()
    output = model(prompt, use_cache=True)
    prefill_s = time.perf_counter() - started
    memory_roof = native.memory_roof(threads)
    started = time.perf_counter()
    for _ in range(steps):
        cache = output.past_key_values
        if cache is None:
            raise ModelError(f"expected a model with a KV cache, got {type(model).__name__}, which returns none")
        output = model(output.logits[:, -1:].argmax(dim=-1), past_key_values=cache, use_cache=True)
    return _Repeat(prefill_s, time.perf_counter() - started, memory_roof, int8_roof)


def _vocabulary(model: torch.nn.Module) -> int:
    embedding: Callable[[], Any] | None = getattr(model, "get_input_embeddings", None)
    if embedding is None:
        raise ModelError(f"expected a causal language model of transformers' interface, got {type(model).__name__}")
    return int(embedding().num_embeddings)


def _fitting_prompt(model: torch.nn.Module, prompt_tokens: int, decode_tokens: int) -> int:
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int):
        return prompt_tokens
    if decode_tokens >= positions:
        raise ShapeError(f"expected fewer decode_tokens than the model's {positions} positions, got {decode_tokens}")
    return min(prompt_tokens, positions - decode_tokens)


@contextmanager
def _threads(wanted: int) -> Iterator[int]:
    """Threads of the kernels and of torch; both as they were afterwards."""
    before, torch_before = native.threads(), torch.get_num_threads()
    native.set_threads(wanted)
    used = native.threads()
    torch.set_num_threads(used)
    try:
        yield used
    finally:
        native.set_threads(before)
        torch.set_num_threads(torch_before)


def weight_bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers that one token reads.

    Shared ones count once; an embedding counts one row (its whole table if the head shares it); of a stack of experts, those that a
    token is sent to (`num_experts_per_tok`).
    """
    total: dict[int, int] = {}
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            read = int(tensor.nbytes * _share_read(model, module, tensor))
            total[id(tensor)] = max(read, total.get(id(tensor), 0))
    return sum(total.values())


def _share_read(model: torch.nn.Module, module: torch.nn.Module, tensor: torch.Tensor) -> float:
    if isinstance(module, torch.nn.Embedding):
        return 1 / module.num_embeddings
    shape = getattr(module, "packed_shape", tuple(tensor.shape))
    chosen = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    return min(1.0, chosen / shape[0]) if len(shape) == 3 and isinstance(chosen, int) else 1.0
