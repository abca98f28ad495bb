"""Peak of memory of a calibrated encoding beside what was foretold: a random Llama of the shape of 1B, `down_proj` alone compensated.

    python benchmarks/calibration_memory.py [--layers 16] [--json FILE]

`down_proj` is the weight whose Hessian and compensation take most; all others are encoded by the nearest level, so that a whole model takes
a quarter of an hour and peaks where `--quality good` does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import machine
from checkpoint import llama, write_checkpoint, write_tokenizer
from kbit.calibrate import CalibrationText
from kbit.core.memory import peak_rss_bytes
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.model import quantize_folder

VOCABULARY, TOKENS = 32_000, 131_072
PLAN = Plan(Scheme.parse("int4:g128"), rules=(("down_proj", Scheme.parse("trellis4:g64+imp+gptq")),))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker)))
        return 0
    facts = machine.print_header("memory of a calibration")
    with tempfile.TemporaryDirectory(prefix="kbit-memory-") as folder:
        work = Path(folder)
        write_checkpoint(work / "source", llama(VOCABULARY, 2048, 8192, options.layers, 32, 8), 0)
        write_tokenizer(work / "source", VOCABULARY)
        words = np.random.default_rng(1).integers(3, VOCABULARY, 3 * TOKENS)
        (work / "text.txt").write_text(" ".join(f"w{word}" for word in words))
        command = [sys.executable, __file__, "--worker", folder]  # a process of its own, so that the peak is its own
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    print(f"peak {row['peak_rss_bytes'] / 1e9:.2f} GB, foretold {row['estimate_bytes'] / 1e9:.2f} GB, {row['seconds']:.0f} s")
    machine.save(
        options.json, {"benchmark": "calibration memory", "machine": facts, "layers": options.layers, "plan": PLAN.to_json(), **row}
    )
    return 0


def measure(work: Path) -> dict[str, float]:
    text = CalibrationText((work / "text.txt",), tokens=TOKENS)
    found = quantize_folder(work / "source", work / "out", PLAN, calibration=text, progress=None)
    return {
        "parameters": found.parameters, "source_bytes": found.source_bytes, "estimate_bytes": found.estimate_bytes,
        "peak_rss_bytes": peak_rss_bytes(), "seconds": found.seconds,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
