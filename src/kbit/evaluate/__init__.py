"""What a k-bit model costs: loss, divergence from the original, true size, and speed.

    windows     text → tokens → windows; `Protocol` writes down how
    logits      where logits come from: `ModelLogits`, or `ReferenceLogits` kept from one run of the original
    perplexity  loss, bits per byte          divergence  KL to the original and its tail, top-1 agreement
    intervals   `Estimate`: every figure with its confidence interval over the text's chunks
    size        every stored bit, by part    speed       prefill and decode beside the machine's roofs
    folder      `evaluate_folder`: all of it for a stored model

Names are loaded on first use: `stored_size` and the windows need no torch. The function `perplexity` stays in its module of that name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.evaluate.divergence import Comparison, Divergence, compare, compare_all
    from kbit.evaluate.folder import EvaluationResult, evaluate_folder
    from kbit.evaluate.intervals import Estimate
    from kbit.evaluate.logits import ModelLogits, ReferenceLogits
    from kbit.evaluate.perplexity import Perplexity
    from kbit.evaluate.size import SizeReport, memory_size, stored_size
    from kbit.evaluate.speed import Runner, SpeedResult, bench, bench_folder, open_runner
    from kbit.evaluate.windows import Protocol, Windows, read_text, tokenize

__all__ = [
    "Comparison",
    "Divergence",
    "Estimate",
    "EvaluationResult",
    "ModelLogits",
    "Perplexity",
    "Protocol",
    "ReferenceLogits",
    "Runner",
    "SizeReport",
    "SpeedResult",
    "Windows",
    "bench",
    "bench_folder",
    "compare",
    "compare_all",
    "evaluate_folder",
    "memory_size",
    "open_runner",
    "read_text",
    "stored_size",
    "tokenize",
]

_WHERE = {
    "divergence": ("Comparison", "Divergence", "compare", "compare_all"),
    "folder": ("EvaluationResult", "evaluate_folder"),
    "intervals": ("Estimate",),
    "logits": ("ModelLogits", "ReferenceLogits"),
    "perplexity": ("Perplexity",),
    "size": ("SizeReport", "memory_size", "stored_size"),
    "speed": ("Runner", "SpeedResult", "bench", "bench_folder", "open_runner"),
    "windows": ("Protocol", "Windows", "read_text", "tokenize"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
