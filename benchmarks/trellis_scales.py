"""Scales for trellises whose errors are made up for: losses under the Hessians of a model by each way to try them.

    python benchmarks/trellis_scales.py [--model DIR] [--layers 1 3] [--bits 1 2 3 4] [--group 256] [--json FILE]

`free`: scales that suit weights as they are, which is how a trellis without +gptq has them. `chosen`: what kbit does, the way by which a
few rows lose least. The others: each way for all weights. Figures are geometric means, over the linear weights of some layers, of the loss
under the Hessian in parts of that of `free`; and seconds for a million weights.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import machine
from kbit.calibrate import CalibrationText
from kbit.calibrate.observe import observed
from kbit.calibrate.walk import LayerWalk
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import trellis_gptq
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.trellis import Trials, free_trials
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.nn.targets import find_targets
from quality import DATA, training_excerpt

Float32 = NDArray[np.float32]
Problem = tuple[str, Float32, Float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DATA / "models" / "quill-4.5m")
    parser.add_argument("--layers", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--bits", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--group", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header(f"scales of compensated trellises, {options.model.name}")
    problems = gathered(options.model, options.layers)
    rows = [row for bits in options.bits for row in compared(problems, bits, options.group)]
    settings = {"model": options.model.name, "layers": options.layers, "group_size": options.group}
    machine.save(options.json, {"benchmark": "trellis scales", "machine": facts, **settings, "rows": rows})
    return 0


def gathered(path: Path, layers: list[int]) -> list[Problem]:
    """(name, weights, Hessian) of the linear weights of some layers."""
    with tempfile.TemporaryDirectory(prefix="kbit-scales-") as work:
        windows = CalibrationText((training_excerpt(Path(work)),), tokens=32_768).windows(load_tokenizer(path))
    model = load_causal_model(path).float()
    targets, _ = find_targets(model, Plan.of("int4:g64+gptq").scheme_for)
    found = []
    with LayerWalk(model, torch.from_numpy(windows.ids)) as walk:
        walk.start()
        for index in range(max(layers) + 1):
            inside = [target for target in targets if target.name.startswith(f"{walk.name}.{index}.")]
            if index in layers:
                with observed(model, inside) as inputs:
                    walk.run(index, keep=False)
                for target in inside:
                    weights = model.get_parameter(target.parameter).detach().float().numpy()
                    found.append((target.name, weights.copy(), inputs.hessian(target).copy()))
            walk.run(index, keep=True)
    return found


def compared(problems: list[Problem], bits: int, group: int) -> list[dict[str, Any]]:
    scheme = Scheme.parse(f"trellis{bits}:g{group}+imp+gptq")
    ways: dict[str, tuple[Trials, ...]] = {"free": (free_trials(bits),), "chosen": trellis_gptq._ways(bits)}
    if len(ways["chosen"]) > 1:
        ways |= {f"{way.parts[0]:g}": (way,) for way in ways["chosen"][1:]}
    rows: list[dict[str, Any]] = []
    for name, way in ways.items():
        losses, started = [], time.perf_counter()
        with tried(way):
            tensors = [encode_gptq(weights, scheme, hessian, name=weight) for weight, weights, hessian in problems]
        seconds = time.perf_counter() - started
        for tensor, (_, weights, hessian) in zip(tensors, problems, strict=True):
            error = tensor.dequantize() - weights
            losses.append(float(np.sum((error @ hessian) * error, dtype=np.float64)))
        logs = np.log(losses)
        free = logs if not rows else np.array(rows[0]["log_losses"])
        share = float(np.exp((logs - free).mean()))
        million = seconds / sum(weights.size for _, weights, _ in problems) * 1e6
        print(f"trellis{bits}:g{group}  {name:8} loss {share:.3f} of free   {million:.2f} s a million weights", flush=True)
        rows.append({"bits": bits, "way": name, "loss_ratio": share, "seconds_per_million": million, "log_losses": logs.tolist()})
    return rows


@contextmanager
def tried(ways: tuple[Trials, ...]) -> Iterator[None]:
    """Only these ways, whatever the bits."""
    usual = trellis_gptq._ways
    trellis_gptq._ways = lambda bits: ways
    try:
        yield
    finally:
        trellis_gptq._ways = usual


if __name__ == "__main__":
    raise SystemExit(main())
