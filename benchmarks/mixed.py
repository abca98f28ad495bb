"""Decode speed of mixed schemes in one fused pass, beside one scheme of the same size for all weights.

    python benchmarks/mixed.py [--layers 4] [--rounds 5] [--json FILE]

A random Llama with layers of the shape of Llama-3.2-1B. The mixed plans give query, key and value, and gate and up, other bits and groups
than each other; the uniform one stores as many bits. Rounds take turns; the figure is the fastest round, since what else runs on a
machine only ever makes one slower.
"""

import argparse
import tempfile
import time
from pathlib import Path

import machine
from checkpoint import llama, write_checkpoint
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.evaluate.engine_runner import EngineRunner
from kbit.model import quantize_folder

PLANS = {
    "int3:g128 for all": Plan.of("int3:g128"),
    "bits 2, 3 and 4, groups of 128": Plan(
        Scheme.parse("int3:g128"),
        rules=(("[qk]_proj", Scheme.parse("int2:g128")), ("v_proj", Scheme.parse("int4:g128")), ("gate_proj", Scheme.parse("int2:g128")),
               ("up_proj", Scheme.parse("int4:g128"))),
    ),
    "bits 2, 3 and 4, groups of 64 and 128": Plan(
        Scheme.parse("int3:g128"),
        rules=(("[qk]_proj", Scheme.parse("int2:g64")), ("v_proj", Scheme.parse("int4:g128")), ("gate_proj", Scheme.parse("int2:g64")),
               ("up_proj", Scheme.parse("int4:g128"))),
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("mixed schemes in one pass")
    with tempfile.TemporaryDirectory(prefix="kbit-mixed-") as work:
        source = Path(work) / "source"
        write_checkpoint(source, llama(1024, 2048, 8192, options.layers, 32, 8), 0)
        runners = {}
        for index, (name, plan) in enumerate(PLANS.items()):
            quantize_folder(source, Path(work) / str(index), plan, progress=False)
            runners[name] = EngineRunner.load(Path(work) / str(index))
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(options.rounds):
        for name in list(runners)[:: 1 if number % 2 else -1]:
            seconds[name].append(step(runners[name], options.steps))
    rows = []
    for name, runner in runners.items():
        found = min(seconds[name])
        rows.append(
            {
                "plan": name,
                "step_ms": 1e3 * found,
                "bytes": runner.weight_bytes_per_token,
                "gb_per_s": runner.weight_bytes_per_token / found / 1e9,
            }
        )
        print(f"{name:<40}{1e3 * found:>8.3f} ms{rows[-1]['gb_per_s']:>8.2f} GB/s", flush=True)
    machine.save(options.json, {"benchmark": "mixed", "machine": facts, "layers": options.layers, "rows": rows})
    return 0


def step(runner: EngineRunner, steps: int) -> float:
    """Seconds of a decode step, the mean of some."""
    runner.prefill([1, 2, 3])
    runner.decode()
    started = time.perf_counter()
    for _ in range(steps):
        runner.decode()
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    raise SystemExit(main())
