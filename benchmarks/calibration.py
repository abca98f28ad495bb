"""A layer of the shape of 1B on its way through a calibration text: seconds in float32 and in bfloat16, and what encodings lose by either.

    python benchmarks/calibration.py [--tokens 16384] [--rounds 3] [--json FILE]
    python benchmarks/calibration.py --quality [--model DIR] [--schemes trellis3:g128+imp+gptq …] [--json FILE]

The first: one run that gathers whole Hessians and one that does not, as each layer takes when it is encoded with +gptq; both arithmetics in
turns, medians. The second: KL divergence from the original on held-out books, as in `quality.py`, of encodings calibrated either way.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch

import machine
from checkpoint import llama, write_checkpoint
from kbit.calibrate import CalibrationText
from kbit.calibrate.arithmetic import Arithmetic
from kbit.calibrate.observe import observed
from kbit.calibrate.walk import LayerWalk
from kbit.core.plan import Plan
from kbit.evaluate import ReferenceLogits, compare, read_text, tokenize
from kbit.evaluate.engine_logits import EngineLogits
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.model import quantize_folder
from kbit.model.load import load_ordinary
from kbit.nn.targets import find_targets
from quality import CONTEXT, DATA, spread, training_excerpt

ARITHMETICS = get_args(Arithmetic)
SCHEMES = ["trellis2:g128+imp+gptq", "trellis3:g128+imp+gptq", "trellis4:g128+imp+gptq", "kmeans3:g64+imp+gptq"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--model", type=Path, default=DATA / "models" / "quill-4.5m")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("calibration in float32 and in bfloat16")
    rows = quality(options) if options.quality else speed(options.tokens, options.rounds)
    name = "calibration quality" if options.quality else "calibration speed"
    machine.save(options.json, {"benchmark": name, "machine": facts, "tokens": options.tokens, "rows": rows})
    return 0


def speed(tokens: int, rounds: int) -> list[dict[str, Any]]:
    ids = torch.randint(3, 32_000, (tokens // CONTEXT, CONTEXT), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="kbit-calibration-") as folder:
        source = Path(folder) / "source"
        write_checkpoint(source, llama(32_000, 2048, 8192, 1, 32, 8), 0)
        model = load_ordinary(source, dtype=torch.bfloat16)
    targets, _ = find_targets(model, Plan.of("int4:g64+gptq").scheme_for)
    seconds: dict[tuple[str, bool], list[float]] = {(name, full): [] for name in ARITHMETICS for full in (True, False)}
    for number in range(rounds):
        for name in ARITHMETICS if number % 2 == 0 else ARITHMETICS[::-1]:
            with LayerWalk(model, ids, name) as walk:
                walk.start()
                walk.open(0)
                for full in (True, False):
                    started = time.perf_counter()
                    with observed(model, targets if full else []):
                        walk.run(0, keep=False)
                    seconds[name, full].append(time.perf_counter() - started)
                walk.close(0)
    medians = {key: statistics.median(found) for key, found in seconds.items()}
    rows = []
    for full in (True, False):
        exact, rounded = (medians[name, full] for name in ARITHMETICS)
        what = "with Hessians" if full else "alone"
        print(f"run {what:14} float32 {exact:7.2f} s   bfloat16 {rounded:7.2f} s   {exact / rounded:.2f} times as fast", flush=True)
        rows.append({"hessians": full, "float32_seconds": exact, "bfloat16_seconds": rounded, "ratio": exact / rounded})
    return rows


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="kbit-calibration-") as folder:
        work = Path(folder)
        calibration = CalibrationText((training_excerpt(work),), tokens=131_072)
        windows = spread(tokenize(read_text(DATA / "text" / "books-heldout"), load_tokenizer(options.model)), options.windows)
        reference = ReferenceLogits.compute(load_causal_model(options.model), windows)
        for scheme in options.schemes:
            found = {}
            for name in ARITHMETICS:
                packed = work / f"{len(rows)}-{name}"
                quantize_folder(options.model, packed, scheme, calibration=calibration, calibration_arithmetic=name, progress=False)
                found[name] = compare(EngineLogits.load(packed, mode="exact"), reference, windows).divergence.kl_mean.value
            print(f"{scheme:28} " + "   ".join(f"{name} {kl:.5f}" for name, kl in found.items()), flush=True)
            rows.append({"model": options.model.name, "scheme": scheme, **{f"{name}_kl": kl for name, kl in found.items()}})
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
