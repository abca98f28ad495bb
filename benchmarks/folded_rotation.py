"""Rotations folded into the weights around, against those that run: what the model loses, what rounding alone costs, and what a step takes.

    python benchmarks/folded_rotation.py quality [--schemes int3:g64 …] [--windows 32] [--json FILE]
    python benchmarks/folded_rotation.py gains [--windows 8] [--json FILE]
    python benchmarks/folded_rotation.py speed [--bits 3] [--threads 1 2] [--rounds 9] [--json FILE]

`quality` scores as `quality.py` does. Embedding and head of the model are tied, so that its values alone are folded; the untied copy
holds the embedding a second time as `lm_head.weight` and computes the same, and there the residual stream is folded too. `rounding` is the
untied copy with everything folded and nothing encoded: in float32, with what stays in 16 bits rounded to bfloat16, and with all of it
rounded.

`gains` foretells what the stream's fold changes in a Llama: rotated errors are even over all inputs, so a matrix W that reads a stream n
(divided by its root mean square) through gains g loses as ‖W‖²·E‖g·n‖² online and as ‖W·g‖²·E‖n‖² folded. It prints the ratio of the two,
and how far gains go against the stream (correlation of log |g| and log E n²).

`speed` runs the linear layers of a 1B Llama as `rotation.py` does: without rotation; online, where every input is rotated; with values
folded (a tied head); and with the stream folded as well, where only what goes into `down` is rotated. Runs are interleaved, and a share is
the median over rounds of (with / without − 1).
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import machine
import quality
import rotation
from kbit.calibrate import CalibrationText
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.evaluate import ReferenceLogits, compare, read_text, tokenize
from kbit.evaluate.models import load_causal_model, load_tokenizer
from kbit.model import decode, quantize_folder
from kbit.model.folded import fold_module
from kbit.model.load import load_ordinary
from kbit.nn.targets import find_targets

SCHEMES = [f"int{bits}:g64{methods}" for methods in ("", "+imp+gptq") for bits in (2, 3, 4)]
#: matrices whose input is rotated as the model runs
ONLINE = {"online": frozenset(rotation.SHAPES), "values folded": frozenset(rotation.SHAPES) - {"o"}, "all folded": frozenset({"down"})}


def main() -> int:
    options = arguments()
    if options.part != "quality":
        return speed(options) if options.part == "speed" else gains(options)
    facts = machine.print_header(f"folded rotations: {options.model.name}, {options.windows} windows of {quality.CONTEXT} tokens")
    settings = {"model": options.model.name, "windows": options.windows, "context": quality.CONTEXT, "calibration_tokens": options.tokens}
    with tempfile.TemporaryDirectory(prefix="kbit-folded-") as work:
        found = losses(options, Path(work))
    machine.save(options.json, {"benchmark": "folded_rotation", "machine": facts, **settings, "seed": options.seed, **found})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("quality", "gains", "speed"))
    parser.add_argument("--model", type=Path, default=quality.DATA / "models" / "quill-4.5m")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the calibration text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", nargs="+", type=int, default=[3])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def losses(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    calibration = CalibrationText((quality.training_excerpt(work),), tokens=options.tokens, seed=options.seed)
    windows = quality.spread(tokenize(read_text(quality.DATA / "text" / "books-heldout"), load_tokenizer(options.model)), options.windows)
    reference = ReferenceLogits.compute(load_causal_model(options.model), windows)
    untied = untie(options.model, work / "untied")
    rounding = {name: compare(model, reference, windows).divergence.kl_mean.value for name, model in unencoded(untied).items()}
    print("  ".join(f"{name}: {kl:.2e}" for name, kl in rounding.items()), flush=True)
    rows: list[dict[str, Any]] = []
    print(f"{'scheme':<20}{'without':>10}{'online':>10}{'values':>10}{'all':>10}")
    for scheme in options.schemes:
        grid, _, methods = scheme.partition("+")
        rotated = "+".join(word for word in (grid, "rotate", methods) if word)
        ways = {"without": (options.model, scheme, "none"), "online": (options.model, rotated, "none")}
        ways |= {"values folded": (options.model, rotated, "values"), "all folded": (untied, rotated, "all")}
        row: dict[str, Any] = {"scheme": scheme}
        for way, (model, text, fold) in ways.items():
            packed = quantize_folder(model, work / "packed", text, calibration=calibration, fold=fold, progress=False, overwrite=True)
            found = compare(decode(work / "packed"), reference, windows).divergence
            row[way] = {"kl_mean": found.kl_mean.value, "kl_mean_low": found.kl_mean.low, "kl_mean_high": found.kl_mean.high}
            row[way] |= {"top1_agreement": found.top1_agreement.value, "bpw": packed.bpw, "notes": list(packed.notes)}
        rows.append(row)
        print(f"{scheme:<20}" + "".join(f"{row[way]['kl_mean']:>10.4f}" for way in ways), flush=True)
    return {"rounding": rounding, "rows": rows}


def untie(source: Path, target: Path) -> Path:
    """The model with its embedding stored a second time as the head."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return target


def unencoded(folder: Path) -> dict[str, torch.nn.Module]:
    """The folded model in float32, and rounded to bfloat16 where it stays in 16 bits, and everywhere."""
    found = {}
    for name in ("float32", "16 bits rounded", "all rounded"):
        model = load_ordinary(folder, dtype=torch.float32).eval()
        targets, _ = find_targets(model, Plan(Scheme.parse("int4:g64+rotate")).scheme_for)
        encoded = {target.parameter for target in targets}
        folded = fold_module(model, targets)
        assert any("folded" in target.scheme.methods for target in folded)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if name == "all rounded" or (name == "16 bits rounded" and key not in encoded):
                    parameter.copy_(parameter.to(torch.bfloat16))
        found[name] = model
    return found


def gains(options: argparse.Namespace) -> int:
    facts = machine.print_header(f"gains of {options.model.name} against its stream")
    text = tokenize(read_text(quality.DATA / "text" / "books-heldout"), load_tokenizer(options.model))
    starts = [index * (len(text.ids) // options.windows) for index in range(options.windows)]
    ids = torch.from_numpy(np.stack([text.ids[start : start + quality.CONTEXT] for start in starts]).astype(np.int64))
    model: Any = load_ordinary(options.model, dtype=torch.float32).eval()
    squares: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, given: Any, _: Any) -> None:
            stream = given[0] / (given[0].square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
            squares[name] = stream.square().flatten(0, -2).mean(0)

        return hook

    for name, module in model.named_modules():
        if name.endswith("layernorm"):
            module.register_forward_hook(watch(name))
    rows = []
    with torch.no_grad():
        model(input_ids=ids)
        for norm, square in squares.items():
            layer, gain = norm.rpartition(".")[0], model.get_parameter(f"{norm}.weight")
            correlation = float(torch.corrcoef(torch.stack([gain.abs().log(), square.log()]))[0, 1])
            readers = ("q_proj", "k_proj", "v_proj") if "input" in norm else ("gate_proj", "up_proj")
            for name in (f"{layer}.{'self_attn' if 'input' in norm else 'mlp'}.{reader}" for reader in readers):
                weight = model.get_parameter(f"{name}.weight")
                online, folded = weight.square().sum() * (gain.square() * square).sum(), (weight * gain).square().sum() * square.sum()
                rows.append({"name": name, "ratio": float(folded / online), "correlation": correlation})
                print(f"{name:<40}{rows[-1]['ratio']:>8.3f}{correlation:>8.2f}", flush=True)
    settings = {"model": options.model.name, "windows": options.windows, "context": quality.CONTEXT}
    machine.save(options.json, {"benchmark": "folded_rotation_gains", "machine": facts, **settings, "rows": rows})
    return 0


def speed(options: argparse.Namespace) -> int:
    facts = machine.print_header("folded rotations: the linear layers of a 1B Llama")
    rows = [row for bits in options.bits for row in steps(bits, options)]
    machine.save(options.json, {"benchmark": "folded_rotation_speed", "machine": facts, "steps": rows})
    return 0


def steps(bits: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    draw, scheme = np.random.default_rng(0), Scheme.parse(f"int{bits}:g64")
    first = {name: encode(draw.standard_normal(shape, np.float32), scheme) for name, shape in rotation.SHAPES.items()}
    weights = [
        {name: replace(one, weight=one.weight.copy(), scale=one.scale.copy()) for name, one in first.items()}
        for _ in range(rotation.LAYERS)
    ]
    rows = []
    for tokens, rounds in ((1, options.rounds), (64, max(3, options.rounds // 3))):
        ways = {"without": frozenset[str](), **ONLINE}
        layers = {way: rotation.Layers(weights, tokens, rotated=rotated) for way, rotated in ways.items()}
        for threads in options.threads:
            times = [{way: one.seconds(threads) for way, one in layers.items()} for _ in range(rounds + 1)][1:]
            row: dict[str, Any] = {"bits": bits, "tokens": tokens, "threads": threads}
            for way in ways:
                share = statistics.median(one[way] / one["without"] - 1 for one in times)
                row[way] = {"ms": 1e3 * statistics.median(one[way] for one in times), "share": share}
            rows.append(row)
            shown = "  ".join(f"{way} {row[way]['ms']:.2f} ms ({row[way]['share']:+.1%})" for way in ways)
            print(f"int{bits}  {tokens:>3} tokens, {threads} threads:  {shown}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
