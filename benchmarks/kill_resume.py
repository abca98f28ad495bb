"""A quantization killed with SIGKILL at random moments, and resumed: are the bytes those of an uninterrupted run?

    python benchmarks/kill_resume.py                                   a random Mixtral-shaped checkpoint, 20 kills
    python benchmarks/kill_resume.py --source FOLDER --scheme nf4:g64 --kills 50 --json FILE

Each kill falls at a random moment of the work that is left (imports excluded), so later kills meet a journal that earlier ones left. When
a run is quicker than its kill, or when all kills are spent, the folder is compared byte by byte, and the next round starts from nothing.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import machine

WORKER = """
import json, sys, time
from kbit.model import quantize_folder
from kbit.model.architecture import build_skeleton
build_skeleton(json.load(open(sys.argv[1] + "/config.json")))  # the imports of the architecture, so that kills fall into the work
print("ready", flush=True)
started = time.monotonic()
quantize_folder(sys.argv[1], sys.argv[2], sys.argv[3], max_shard_bytes=int(sys.argv[4]), progress=False)
print(time.monotonic() - started, flush=True)
"""


def main() -> int:
    options = arguments()
    facts = machine.print_header("kill and resume")
    with tempfile.TemporaryDirectory(prefix="kbit-kill-") as scratch:
        work = Path(scratch)
        source = options.source or make_checkpoint(work / "source")
        seconds = run(options, source, work / "whole", None)
        assert seconds is not None, "nobody killed it"
        expected = tree(work / "whole")
        print(f"the work takes {seconds:.2f} s", flush=True)
        kills, rounds, different = 0, 0, []
        draw = random.Random(options.seed)
        while kills < options.kills:
            rounds += 1
            while kills < options.kills and not finished(work):
                if run(options, source, work / "killed", draw.uniform(0, seconds)) is None:
                    kills += 1
                    print(f"kill {kills:3}  round {rounds}  {left_behind(work)}", flush=True)
            if not finished(work):
                run(options, source, work / "killed", None)
            found = tree(work / "killed")
            if found != expected:
                different.append(sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)))
            shutil.rmtree(work / "killed")
    result = {"kills": kills, "rounds": rounds, "bit_equal": not different, "different_files": different, "scheme": options.scheme}
    print(f"{kills} kills in {rounds} rounds: {'every folder bit-equal' if not different else f'DIFFERENT: {different}'}")
    machine.save(options.json, {"machine": facts, **result})
    return 1 if different else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="checkpoint to quantize; a random one is made if absent")
    parser.add_argument("--scheme", default="nf4:g64")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--max-shard-bytes", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_checkpoint(folder: Path) -> Path:
    """Random weights of a small mixture of experts in bfloat16, in shards: renamed, fused, tied and plain tensors are all in it."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, tie_word_embeddings=True,
    )  # fmt: skip
    MixtralForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="4MB")
    return folder


def run(options: argparse.Namespace, source: Path, destination: Path, kill_after: float | None) -> float | None:
    """Quantize in a process of its own, killed so many seconds after its imports; the seconds it took, or None if it was killed."""
    arguments = [sys.executable, "-c", WORKER, str(source), str(destination), options.scheme, str(options.max_shard_bytes)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
        code, rest = process.wait(), process.stdout.read()
    if code not in (0, -9):
        raise SystemExit(f"the quantization failed with exit status {code}")
    return float(rest) if code == 0 else None


def finished(work: Path) -> bool:
    """The folder is in its place, and nothing is left to clear away."""
    return (work / "killed").exists() and not (work / "killed.journal").exists()


def left_behind(work: Path) -> str:
    journal = work / "killed.journal"
    done = len(journal.read_bytes().splitlines()) - 1 if journal.exists() else 0
    return f"{max(done, 0)} tensors in the journal"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    raise SystemExit(main())
