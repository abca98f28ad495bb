"""A worker's side: answers requests, a line of JSON each, until it is told to exit or its input ends.

    {"do": "load", "path": PATH, "threads": N}                → {"seconds", "about", "rss_bytes", "torch"}
    {"do": "generate", "prompt": [IDS], "count": N}           → {"prefill_seconds", "decode_seconds", "tokens", "peak_rss_bytes"}
    {"do": "exit"}

What fails is answered with {"error": TEXT}. Standard output belongs to the answers: whatever a library prints goes to standard error.

`prefill_seconds` lasts from the prompt to its first token, `decode_seconds` from there over `count` tokens more, each fed back alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Generate", "Report", "serve"]

Report = Callable[[int], None]


class Generate(Protocol):
    """Runs a prompt from nothing and reports its first greedy token, then `count` more, each as soon as it is there."""

    def __call__(self, prompt: list[int], count: int, report: Report) -> None: ...  # noqa: D102


#: (path, threads) → what generates, and a line on what it is
Load = Callable[[str, int], tuple[Generate, str]]


def serve(load: Load) -> None:
    """Runs a worker; `load` opens a model."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(load)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            break
        try:
            answer = worker.answer(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # some libraries crash while they are unloaded, and nothing is left to be saved


class _Worker:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._generate: Generate | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "load":
            started = time.perf_counter()
            self._generate, about = self._load(request["path"], request["threads"])
            seconds = time.perf_counter() - started
            return {"seconds": seconds, "about": about, "rss_bytes": _status_bytes("VmRSS"), "torch": "torch" in sys.modules}
        assert self._generate is not None, "nothing is loaded"
        return _timed(self._generate, request["prompt"], request["count"])


def _timed(generate: Generate, prompt: list[int], count: int) -> dict[str, Any]:
    tokens: list[int] = []
    times = [time.perf_counter()]

    def report(token: int) -> None:
        tokens.append(int(token))
        times.append(time.perf_counter())

    generate(prompt, count, report)
    if len(tokens) != count + 1:
        raise RuntimeError(f"expected {count + 1} tokens, got {len(tokens)}")
    return {
        "prefill_seconds": times[1] - times[0],
        "decode_seconds": times[-1] - times[1],
        "tokens": tokens,
        "peak_rss_bytes": _status_bytes("VmHWM"),
    }


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
