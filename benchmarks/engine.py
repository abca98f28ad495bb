"""Speed, memory and size of whole models: kbit's engine beside llama.cpp, OpenVINO GenAI, ONNX Runtime GenAI, CTranslate2 and torch.

    benchmarks/peers/setup                             once: an environment a peer, from PyPI
    python benchmarks/engine.py --models 1b 30m --json benchmarks/results/engine.json --plot docs/images/engine.svg
    python benchmarks/engine.py --models 30m --engines kbit llama_cpp --types nf4:g64 Q4_K_M Q4_0 --rounds 3 --threads 1

Models are Llamas of random weights, tied: `1b` has the shape of Llama-3.2-1B with a vocabulary of 32,000 (hidden 2048, inner 8192,
16 layers, 32 heads, 8 key-value heads: 1.04 billion parameters), `30m` a hidden size of 512 (inner 1536, 8 layers, 8 heads, 4 key-value
heads, vocabulary 4096: 27 million). Every engine gets the same checkpoint, in its own file format; kbit packs embedding and head by the
scheme of the layers.

Each engine and type runs in a process of its own. A round gives each of them one turn: a prompt of 512 tokens, then 64 tokens decoded
greedily, one by one, with its cache of keys and values; the machine's roofs are probed before and after. A turn that other processes
disturbed is tried again a few times. Figures are medians over the rounds. `bpw` is of the whole file without its tokenizer; `RSS` the peak
of the process, its interpreter and libraries included; `load` is from the file in the page cache to a model that is ready, imports not
counted. First tokens are kept beside the figures: engines that run the same model agree on most.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import machine
from checkpoint import parameters
from peers.catalogue import ENGINES
from peers.files import MODELS, FailureError, checkpoint_of, version_of
from peers.plot import draw
from peers.results import add_ratios, print_table, row_of
from peers.rounds import Contestant, Plan, run_rounds


def main() -> int:
    options = arguments()
    facts = machine.print_header("whole models: kbit's engine and its peers")
    folder = Path(tempfile.mkdtemp(prefix="kbit-engine-")) if options.folder is None else options.folder
    rows: list[dict[str, Any]] = []
    about: dict[str, str] = {}
    try:
        for model in options.models:
            rows += measure(model, folder, options, about)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    add_ratios(rows)
    print_table(rows)
    result = {"benchmark": "engine", "machine": facts, "prompt": options.prompt, "decode": options.decode, "rounds": options.rounds}
    result |= {"engines": about, "rows": rows}
    machine.save(options.json, result)
    if options.plot is not None:
        draw(rows, options.plot)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1b", "30m"], choices=sorted(MODELS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--types", nargs="+", help="only these types of weights, where an engine has them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=64, help="tokens decoded after it")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and their versions (about 14 GB) here, and use what is there")
    parser.add_argument(
        "--memory-gib", type=float, default=14, help="memory for workers; those that do not fit are loaded again each round"
    )
    parser.add_argument("--patience", type=float, default=60, help="seconds that a turn may wait for other processes to leave it alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="picture of speed against size, as SVG or PNG")
    return parser.parse_args()


def measure(model: str, folder: Path, options: argparse.Namespace, about: dict[str, str]) -> list[dict[str, Any]]:
    """All contestants on one model, one thread count after another."""
    checkpoint = checkpoint_of(folder, model)
    rows = []
    plan = Plan(
        options.rounds, options.prompt, options.decode, MODELS[model]["vocab_size"], int(options.memory_gib * 2**30), options.patience
    )
    for threads in options.threads:
        contestants = enter(checkpoint, options)
        run_rounds(contestants, threads, plan)
        rows += [row_of(each, model, parameters(MODELS[model]), threads, plan) for each in contestants]
        about.update({each.engine.name: each.about for each in contestants if each.about})
    return rows


def enter(checkpoint: Path, options: argparse.Namespace) -> list[Contestant]:
    """Every engine and type, with its file made, or the reason why not."""
    contestants = []
    for engine in (ENGINES[name] for name in options.engines):
        for kind in engine.types:
            if options.types and kind not in options.types:
                continue
            contestant = Contestant(engine, kind)
            try:
                contestant.path = version_of(checkpoint, engine, kind)
            except FailureError as failure:
                contestant.failure = str(failure)
            contestants.append(contestant)
    return contestants


if __name__ == "__main__":
    raise SystemExit(main())
