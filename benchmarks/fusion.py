"""What fusing operations gains: one model's plan as it is, and with one fusion undone, interleaved, medians.

    python benchmarks/fusion.py DIR [--rounds 9] [--threads 1 2] [--json FILE]

Variants are made from the plan itself, which is data:

    projections  q, k and v (or gate and up) as matrices of their own: the input is normalized and quantized for each, with a barrier after
                 each. Gate and up lose their product with it, which an unfused step would have to pay besides.
    norm         every norm an operation of its own, written to memory and read again
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.ops import ForwardPlan, Linear, Normalize, Op
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.native.memory import HugeMemory
from kbit.store.folder import open_model

PROMPT, DECODE = 512, 32


def main() -> int:
    options = arguments()
    facts = machine.print_header("fusion: a step as it is, and with one fusion undone")
    with open_model(options.model, memory=HugeMemory()) as stored:
        weights = ModelWeights(stored)
        plan = make_plan(stored.config, weights)
        plans = {"fused": plan, "projections apart": projections_apart(plan), "norms apart": norms_apart(plan)}
        engines = {name: Engine(variant, weights, cache_positions=4096) for name, variant in plans.items()}
    rows = [row for threads in options.threads for row in measure(engines, threads, options.rounds)]
    machine.save(options.json, {"benchmark": "fusion", "machine": facts, "model": options.model.name, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def projections_apart(plan: ForwardPlan) -> ForwardPlan:
    """Every matrix in an operation of its own."""
    ops: list[Op] = []
    for op in plan.ops:
        if isinstance(op, Linear) and len(op.parts) > 1:
            ops += [replace(op, parts=(replace(part, at=0) if op.gated else part,), gated=False) for part in op.parts]
        else:
            ops.append(op)
    return replace(plan, ops=tuple(ops))


def norms_apart(plan: ForwardPlan) -> ForwardPlan:
    """Every norm in an operation of its own."""
    ops: list[Op] = []
    buffers = dict(plan.buffers)
    for op in plan.ops:
        if isinstance(op, Linear) and op.norm is not None:
            buffers["normed"] = plan.buffers[op.source]
            ops += [Normalize(op.source, "normed", op.norm), replace(op, source="normed", norm=None)]
        else:
            ops.append(op)
    return replace(plan, ops=tuple(ops), buffers=buffers)


def measure(engines: dict[str, Engine], threads: int, rounds: int) -> list[dict[str, Any]]:
    prefill: dict[str, list[float]] = {name: [] for name in engines}
    decode: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, engine in engines.items():
            engine.threads = threads
            seconds = once(engine)
            if turn:
                prefill[name].append(seconds[0])
                decode[name].append(seconds[1])
    rows = []
    for name in engines:
        pre, dec = statistics.median(prefill[name]), statistics.median(decode[name])
        gains = [statistics.median(times[name]) / statistics.median(times["fused"]) - 1 for times in (prefill, decode)]
        rows.append({"variant": name, "threads": threads, "prefill_ms": 1e3 * pre, "decode_ms": 1e3 * dec, "slower": gains})
        slower = "" if name == "fused" else f"   prefill {gains[0]:+.1%}, decode {gains[1]:+.1%}"
        print(f"{threads} thread(s)  {name:<18} prefill {1e3 * pre:8.1f} ms   decode {1e3 * dec:7.3f} ms a token{slower}", flush=True)
    return rows


def once(engine: Engine) -> tuple[float, float]:
    """Seconds of a prefill, and of one decode step."""
    sequence = engine.sequence()
    started = time.perf_counter()
    engine.step([Feed(sequence, [1] * PROMPT)])
    filled = time.perf_counter()
    for _ in range(DECODE):
        engine.step([Feed(sequence, [1])])
    ended = time.perf_counter()
    engine.free(sequence)
    return filled - started, (ended - filled) / DECODE


if __name__ == "__main__":
    raise SystemExit(main())
