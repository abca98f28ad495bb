"""Zero-shot accuracy through lm_eval's tasks."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from kbit.core.errors import MissingExtraError, ModelError
from kbit.study.cell import QualityCell

__all__ = ["task_accuracy"]


def task_accuracy(model: torch.nn.Module, cell: QualityCell) -> dict[str, Any]:
    """Columns ``accuracy`` (mean over the tasks) and ``tasks`` (each with its standard error).

    Raises:
        MissingExtraError: lm_eval is not installed.
        ModelError: a task that lm_eval does not know, or that has no accuracy.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "lm_eval", "study") from None
    config: Any = model.config
    tokenizer = AutoTokenizer.from_pretrained(cell.path, local_files_only=True)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=config.max_position_embeddings)
    folder = cell.task_folder or None
    manager = TaskManager(include_path=None if folder is None else str(Path(folder).resolve()), include_defaults=folder is None)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its bars
            found = simple_evaluate(
                wrapped, tasks=list(cell.tasks), limit=cell.task_limit or None, bootstrap_iters=100, task_manager=manager
            )
    except KeyError as error:
        raise ModelError(f"lm_eval has no task {error}") from None
    results = {} if found is None else found["results"]
    figures: dict[str, dict[str, float | None]] = {}
    for name in cell.tasks:
        accuracy = results.get(name, {}).get("acc,none")
        if accuracy is None:
            raise ModelError(f"expected an accuracy from task {name}, got {', '.join(results.get(name, {})) or 'nothing'}")
        spread = results[name].get("acc_stderr,none")
        figures[name] = {"acc": float(accuracy), "acc_stderr": float(spread) if isinstance(spread, float) else None}
    mean = sum(float(one["acc"] or 0.0) for one in figures.values()) / len(figures)
    return {"accuracy": mean, "tasks": json.dumps(figures)}
