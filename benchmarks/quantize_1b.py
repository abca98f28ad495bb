"""Time and memory of quantizing a model of 1.2 billion parameters from disk.

    python benchmarks/quantize_1b.py
    python benchmarks/quantize_1b.py --schemes nf4:g64 int4:g64:mse --threads 2 --json FILE

A random-weight checkpoint of the shape of Llama-3.2-1B (bfloat16, tied, vocabulary of 128256) is written in shards, tensor by tensor.
Each scheme then quantizes it in a process of its own: seconds of `quantize_folder` without imports, and the largest resident memory of
that process, imports and all, beside the size of the model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
from checkpoint import llama, write_checkpoint

SCHEMES = ["nf4:g64", "int4:g64", "float4:g64", "log4:g64", "dynamic4:g64", "quantile4:g64", "kmeans4:g64"]
CONFIG = llama(128256, 2048, 8192, 16, 32, 8, bos=128000, eos=128001)
WORKER = """
import json, sys
from kbit.model import quantize_folder
from kbit.core.memory import rss_bytes
import transformers.models.llama.modeling_llama
base = rss_bytes()
result = quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], threads=int(sys.argv[4]), progress=True)
keys = ("scheme", "seconds", "bpw", "bpw_file", "file_bytes", "source_bytes", "peak_rss_bytes", "estimate_bytes")
print(json.dumps({key: getattr(result, key) for key in keys} | {"rss_after_imports_bytes": base}))
"""


def main() -> int:
    options = arguments()
    facts = machine.print_header("quantize a model of 1.2 billion parameters from disk")
    rows = []
    with tempfile.TemporaryDirectory(prefix="kbit-1b-", dir=options.folder) as scratch:
        work = Path(scratch)
        print("writing the checkpoint …", flush=True)
        write_checkpoint(work / "source", CONFIG, options.seed)
        print(
            f"{'scheme':16} {'seconds':>8} {'bpw':>6} {'file MB':>8} {'peak MB':>8} {'imports MB':>10} {'estimate MB':>11} {'model MB':>8}"
        )
        for index, scheme in enumerate(options.schemes):
            row = quantize(work / "source", work / f"out-{index}", scheme, options.threads)
            rows.append(row)
            sizes = [
                row[key] / 1e6 for key in ("file_bytes", "peak_rss_bytes", "rss_after_imports_bytes", "estimate_bytes", "source_bytes")
            ]
            print(
                f"{scheme:16} {row['seconds']:8.1f} {row['bpw']:6.3f} " + "{:8.0f} {:8.0f} {:10.0f} {:11.0f} {:8.0f}".format(*sizes),
                flush=True,
            )
    machine.save(options.json, {"machine": facts, "threads": options.threads, "rows": rows})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--threads", type=int, default=0, help="threads of the encoder, 0 for all")
    parser.add_argument("--folder", type=Path, help="where the temporary folder of about 4 GB goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def quantize(source: Path, destination: Path, scheme: str, threads: int) -> dict[str, float]:
    """One run in a process of its own; what it wrote is deleted."""
    command = [sys.executable, "-c", WORKER, str(source), str(destination), scheme, str(threads)]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for path in destination.iterdir():
        path.unlink()
    destination.rmdir()
    return row


if __name__ == "__main__":
    raise SystemExit(main())
