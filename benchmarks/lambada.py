"""LAMBADA by lm_eval, offline: a 16-bit model and its k-bit version, accuracy and perplexity with standard errors.

    python benchmarks/lambada.py --model DIR [--scheme nf4:g64] [--mode fast] [--limit N] [--json FILE] [--data FILE.jsonl]

The task is lm_eval's ``lambada_openai`` (Paperno et al. 2016, the text variant of Radford et al. 2019): predict the last word of a passage
from everything before it; accuracy counts words whose every token is the most likely one. `--data` is a file with one ``{"text": …}`` a
line; without it, ``data/eval/lambada_test.jsonl`` under the folder that KBIT_SHARED names, or that lies beside the repository.
Both models see the same passages, so the difference is given with the standard error of the paired differences.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TASK = "lambada"
METRICS = ("acc", "perplexity")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    import lm_eval
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kbit.hf import KbitConfig

    config = KbitConfig(options.scheme, embedding=options.embedding, head=options.head, mode=options.mode)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows, outcomes = [], []
    for label, recipe in (("16", None), (options.scheme, config)):
        extra = {} if recipe is None else {"quantization_config": recipe}
        started = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(options.model, **extra)
        loaded = time.perf_counter()
        result = evaluate(model, tokenizer, options)
        row = {"scheme": label, **figures(result), "load_seconds": loaded - started, "evaluate_seconds": time.perf_counter() - loaded}
        rows.append(row)
        outcomes.append([sample["acc"] for sample in sorted(result["samples"][TASK], key=lambda sample: sample["doc_id"])])
        accuracy = f"accuracy {row['acc']:.4f} ± {row['acc_stderr']:.4f}"
        perplexity = f"perplexity {row['perplexity']:.2f} ± {row['perplexity_stderr']:.2f}"
        print(f"{label:>16}   {accuracy}   {perplexity}   ({row['passages']} passages, {row['evaluate_seconds']:.0f} s)", flush=True)
    difference = paired(*outcomes)
    print(f"      difference   accuracy {difference['acc']:+.4f} ± {difference['acc_stderr']:.4f} (paired)")
    report = {
        "task": TASK,
        "model": str(options.model),
        "mode": options.mode,
        "command": [Path(sys.argv[0]).name, *(sys.argv[1:] if arguments is None else arguments)],
        "versions": {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "rows": rows,
        "difference": difference,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a 16-bit model")
    parser.add_argument("--scheme", default="nf4:g64", help="data type of the k-bit version")
    parser.add_argument("--embedding", default="16", help="scheme of the embedding")
    parser.add_argument("--head", default="16", help="scheme of the output head")
    parser.add_argument("--mode", default="fast", choices=("fast", "exact"))
    parser.add_argument("--limit", type=int, help="passages taken, from the first; all without it")
    parser.add_argument("--batch", type=int, default=8, help="passages a forward pass")
    parser.add_argument("--data", type=Path, default=default_data(), help="passages, one JSON object a line")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    for path in (options.model, options.data):
        if not path.exists():
            parser.error(f"{path} does not exist")
    return options


def default_data() -> Path:
    shared = Path(os.environ.get("KBIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    return shared / "data" / "eval" / "lambada_test.jsonl"


def task(data: Path, cache: str) -> dict[str, Any]:
    """lm_eval's definition of ``lambada_openai``, on a local file."""
    return {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}, "cache_dir": cache},
        "output_type": "loglikelihood",
        "test_split": "test",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
    }


def evaluate(model: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch, max_length=model.config.max_position_embeddings)
    with tempfile.TemporaryDirectory() as cache:
        manager = TaskManager(include_defaults=False)  # lm_eval's own tasks are thousands of files, and none is needed
        result = simple_evaluate(
            wrapped, tasks=[task(options.data, cache)], limit=options.limit, bootstrap_iters=1000, task_manager=manager
        )
    assert result is not None  # None only on ranks above 0 of a distributed run
    return dict(result)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    found = result["results"][TASK]
    values = {metric: found[f"{metric},none"] for metric in METRICS}
    errors = {f"{metric}_stderr": found[f"{metric}_stderr,none"] for metric in METRICS}
    return {**values, **errors, "passages": len(result["samples"][TASK])}


def paired(before: list[float], after: list[float]) -> dict[str, float]:
    differences = [b - a for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return {"acc": statistics.fmean(differences), "acc_stderr": error}


if __name__ == "__main__":
    raise SystemExit(main())
