"""One cell → one row, in whichever process it runs.

Quality is measured on what `kbit quantize` writes: the folder is packed, counted, decoded to float32 and run beside the original, so that
figures are of the weights alone. A cell that fails is a row with its reason.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kbit import native
from kbit.core.errors import NumericsError
from kbit.core.installation import package_version, version_of
from kbit.core.memory import peak_rss_bytes, reset_peak_rss
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.evaluate.divergence import Comparison, compare
from kbit.evaluate.models import load_causal_model
from kbit.evaluate.size import SizeReport, stored_size
from kbit.evaluate.speed import bench_folder
from kbit.model.decode import decode
from kbit.model.quantize import quantize_folder
from kbit.store.accounting import PACKED_PARTS
from kbit.store.check import check_folder
from kbit.study.cell import QualityCell, SpeedCell
from kbit.study.references import reference_logits
from kbit.study.tasks import task_accuracy
from kbit.study.text import calibration_windows, scored_windows

__all__ = ["failed_row", "machine_name", "measure", "use_one_thread"]

_PACKAGES = ("torch", "transformers", "numpy", "lm_eval")


def measure(cell: QualityCell | SpeedCell, cache_folder: str) -> dict[str, Any]:
    """The row of a cell; never raises for what is wrong with the cell.

    Args:
        cell: what to measure.
        cache_folder: where originals' logits are kept.
    """
    reset_peak_rss()
    started = time.monotonic()
    try:
        found = _quality(cell, cache_folder) if isinstance(cell, QualityCell) else _speed(cell)
    except Exception as error:  # whatever it is, it is the cell's, and other cells go on
        return failed_row(cell, f"{type(error).__name__}: {error}", time.monotonic() - started)
    facts = {"status": "ok", "seconds": time.monotonic() - started, "peak_rss_bytes": peak_rss_bytes(), "versions": _versions()}
    return {**cell.columns, "machine": machine_name(), **found, **facts}


def failed_row(cell: QualityCell | SpeedCell, reason: str, seconds: float) -> dict[str, Any]:
    """The row of a cell that has no figures."""
    reason = " ".join(reason.split())[:2000]
    return {**cell.columns, "status": "failed", "reason": reason, "seconds": seconds, "machine": machine_name(), "versions": _versions()}


def use_one_thread() -> None:
    """What a worker of a pool does first: cells run beside each other, each on one core."""
    torch.set_num_threads(1)
    native.set_threads(1)


def _quality(cell: QualityCell, cache_folder: str) -> dict[str, Any]:
    windows = scored_windows(cell.path, cell.text_paths, cell.context, cell.windows)
    reference = reference_logits(cell.path, cell.model_sha256, cell.text_paths, cell.context, cell.windows, cache_folder)
    shape = _shape(cell.path)
    if Scheme.parse(cell.scheme).is_none:
        started = time.monotonic()
        comparison = compare(reference, reference, windows)
        tasks = task_accuracy(load_causal_model(Path(cell.path)), cell) if cell.tasks else {}
        found: dict[str, Any] = {"weight_error": 0.0, "evaluate_seconds": time.monotonic() - started}
        return {**shape, **_size(stored_size(cell.path)), **_loss(comparison), **found, **tasks}
    with tempfile.TemporaryDirectory(prefix="kbit-study-") as work:
        folder, started = Path(work) / "packed", time.monotonic()
        packed = quantize_folder(cell.path, folder, _plan(cell), calibration=_calibration(cell), progress=False)
        encoded, size = time.monotonic(), _size(stored_size(folder))
        model: torch.nn.Module = decode(folder)  # type: ignore[assignment]
    comparison = compare(model, reference, windows)
    tasks = task_accuracy(model, cell) if cell.tasks else {}
    found = {
        "weight_error": _weight_error(_original(cell.path, cell.model_sha256), model.state_dict()),
        "root": packed.root,
        "quantize_seconds": encoded - started,
        "evaluate_seconds": time.monotonic() - encoded,
    }
    return {**shape, **size, **_loss(comparison), **found, **tasks}


def _speed(cell: SpeedCell) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kbit-study-") as work:
        folder = Path(cell.path)
        if cell.scheme != "16":
            folder = Path(work) / "packed"
            plan = Plan(Scheme.parse(cell.scheme), embedding=Scheme.parse(cell.embedding), head=Scheme.parse(cell.head))
            quantize_folder(cell.path, folder, plan, progress=False)
        options = {name: getattr(cell, name) for name in ("prompt_tokens", "decode_tokens", "repeats")}
        found = bench_folder(folder, threads=cell.threads, **options).to_json()
    names = (
        "threads",
        "isa",
        "prompt_tokens",
        "decode_tokens",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "decode_gb_per_s",
        "weight_bytes_per_token",
        "memory_roof_gb_per_s",
        "int8_roof_gmac_per_s",
        "load_seconds",
    )
    return {name: found[name] for name in names}


def _plan(cell: QualityCell) -> Plan:
    return Plan(Scheme.parse(cell.scheme), embedding=Scheme.parse(cell.embedding), head=Scheme.parse(cell.head))


def _calibration(cell: QualityCell) -> Any:
    if not cell.calibration_paths:
        return None
    positions = check_folder(cell.path).get("max_position_embeddings")
    positions = positions if isinstance(positions, int) else None
    return calibration_windows(cell.path, cell.calibration_paths, cell.calibration_tokens, cell.seed, positions)


def _shape(path: str) -> dict[str, Any]:
    config = check_folder(path)
    return {"hidden_size": config.get("hidden_size"), "layers": config.get("num_hidden_layers")}


def _size(report: SizeReport) -> dict[str, Any]:
    rest = sum(bits for part, bits in report.parts.items() if part not in PACKED_PARTS and part != "header")
    return {
        "quantized_weights": report.quantized_weights,
        "bpw": report.bpw,
        "bpw_file": report.bpw_file,
        "file_bytes": report.file_bytes,
        **{f"{part}_bytes": report.parts.get(part, 0) / 8 for part in PACKED_PARTS},
        "rest_bytes": rest / 8,
        "header_bytes": report.parts.get("header", 0) / 8,
    }


def _loss(comparison: Comparison) -> dict[str, Any]:
    loss, divergence = comparison.loss, comparison.divergence
    if not math.isfinite(loss.perplexity.value):
        raise NumericsError(f"expected a finite perplexity, got {loss.perplexity.value} of {loss.nats_per_token.value:g} nats a token")
    return {
        "tokens": loss.protocol.tokens,
        "perplexity": loss.perplexity.value,
        "loss_nats": loss.nats_per_token.value,
        "reference_loss_nats": comparison.reference.nats_per_token.value,
        "bits_per_byte": loss.bits_per_byte.value,
        "kl_mean": divergence.kl_mean.value,
        "kl_mean_low": divergence.kl_mean.low,
        "kl_mean_high": divergence.kl_mean.high,
        "kl_p99": divergence.kl_p99.value,
        "kl_max": divergence.kl_max.value,
        "top1_agreement": divergence.top1_agreement.value,
    }


_ORIGINALS: dict[str, dict[str, torch.Tensor]] = {}


def _original(path: str, digest: str) -> dict[str, torch.Tensor]:
    if digest not in _ORIGINALS:
        _ORIGINALS.clear()
        _ORIGINALS[digest] = dict(load_causal_model(Path(path)).state_dict())
    return _ORIGINALS[digest]


def _weight_error(original: Mapping[str, torch.Tensor], decoded: Mapping[str, torch.Tensor]) -> float:
    error = energy = 0.0
    for name, weight in original.items():
        if name in decoded and not torch.equal(weight, decoded[name].to(weight.dtype)):
            error += float((weight.double() - decoded[name].double()).square().sum())
            energy += float(weight.double().square().sum())
    return error / energy if energy else 0.0


@cache
def _versions() -> str:
    return json.dumps({"kbit": package_version(), **{name: version for name in _PACKAGES if (version := version_of(name))}})


@cache
def machine_name() -> str:
    """Processor, cores and instruction set: what a speed belongs to."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = "unknown processor"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {native.isa()}"
