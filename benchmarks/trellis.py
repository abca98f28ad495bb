"""Trellis codes on a normal source, and what encoding costs.

    python benchmarks/trellis.py states [--samples 8000] [--json FILE]
    python benchmarks/trellis.py encoder [--json FILE]

`states`: the mean square error of a unit normal source against the bits L of the state, by a Viterbi search in numpy with one scale,
beside the best scalar quantizer of as many levels (Lloyd 1957, Max 1960) and the rate-distortion bound 4^−k. The multiplier of each row
is the best of those tried for it; kbit stores L = 10. `encoder`: kbit's encoder on normal weights, with scales in groups as they are
stored: error, and seconds for a million weights on all threads, by the plain search and with errors made up for (a Hessian of correlated
inputs).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import machine
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import encode
from kbit.grids import levels_for
from kbit.tensor.trellis import MULTIPLIERS, state_bits

#: (bits, L) → odd multiplier of the state, the best of all (L = 6, 8), of all (L = 10) or of some tens (L = 12)
MULTIPLIER = {
    (1, 6): 25, (2, 6): 19, (3, 6): 19, (4, 6): 25,
    (1, 8): 115, (2, 8): 71, (3, 8): 95, (4, 8): 49,
    (1, 10): 467, (2, 10): 239, (3, 10): 135, (4, 10): 61,
    (1, 12): 1893, (2, 12): 987, (3, 12): 1529, (4, 12): 483,
}  # fmt: skip
SCALES = (0.9, 1.0, 1.1, 1.2)
SHAPE = (1024, 1024)
Float64 = NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["states", "encoder"])
    parser.add_argument("--samples", type=int, default=8_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine.print_header("trellis codes on a normal source")
    if options.part == "states":
        assert all(multiplier == MULTIPLIER[bits, state_bits(bits)] << (14 - state_bits(bits)) for bits, multiplier in MULTIPLIERS.items())
        source = np.random.default_rng(0).standard_normal(options.samples)
        rows = [by_states(bits, width, source) for bits, width in sorted(MULTIPLIER)]
    else:
        rows = [by_encoder(f"trellis{bits}:g{group}") for bits in MULTIPLIERS for group in (64, 256)]
    machine.save(options.json, {"benchmark": f"trellis {options.part}", "machine": facts, "samples": options.samples, "rows": rows})
    return 0


def by_states(bits: int, width: int, source: Float64) -> dict[str, Any]:
    """MSE of a trellis of 2^width states."""
    state = np.arange(1 << width)
    index = (state * MULTIPLIER[bits, width] % (1 << width)) >> (width - 6)
    levels = levels_for(Scheme("trellis", bits)).astype(np.float64)[index]
    levels /= np.sqrt((levels**2).mean())
    scale = min(SCALES, key=lambda scale: viterbi(source[:3000], scale * levels, bits))
    row = {"bits": bits, "state_bits": width, "mse": viterbi(source, scale * levels, bits), "scalar": lloyd_max(bits), "bound": 4.0**-bits}
    gap = 10 * np.log10(row["mse"] / row["bound"])
    print(
        f"k {bits}  L {width:>2}  MSE {row['mse']:.5f}  scalar {row['scalar']:.5f}  bound {row['bound']:.5f}  above it {gap:.2f} dB",
        flush=True,
    )
    return row


def viterbi(source: Float64, levels: Float64, bits: int) -> float:
    """Mean square error of the best path, from any state."""
    branches = 1 << bits
    cost, total = np.zeros(len(levels)), 0.0
    for value in source:
        best = cost.reshape(branches, -1).min(axis=0)
        least = best.min()
        total += float(least)
        cost = np.repeat(best - least, branches) + (value - levels) ** 2
    return (total + float(cost.min())) / len(source)


def lloyd_max(bits: int) -> float:
    """MSE of the best scalar quantizer, by Lloyd's iteration on a fine grid of the density."""
    x = np.linspace(-8, 8, 160_001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    levels = np.linspace(-2, 2, 1 << bits)
    for _ in range(400):
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        mass = np.bincount(codes, density, 1 << bits)
        levels = np.bincount(codes, density * x, 1 << bits) / mass
    return float((density * (x - levels[codes]) ** 2).sum())


def by_encoder(text: str) -> dict[str, Any]:
    """What kbit's encoder loses on normal weights, and how long it takes."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(SHAPE, np.float32)
    inputs = rng.standard_normal((2 * SHAPE[1], SHAPE[1])) @ (np.eye(SHAPE[1]) + 0.02 * rng.standard_normal((SHAPE[1], SHAPE[1])))
    hessian = (inputs.T @ inputs).astype(np.float32)
    started = time.perf_counter()
    plain = encode(weights, Scheme.parse(text))
    middle = time.perf_counter()
    encode_gptq(weights, Scheme.parse(f"{text}+gptq"), hessian)
    ended = time.perf_counter()
    millions = weights.size / 1e6
    row = {
        "scheme": text,
        "bpw": plain.bpw,
        "mse": float(((weights - plain.dequantize()) ** 2).mean()),
        "seconds_per_million": (middle - started) / millions,
        "gptq_seconds_per_million": (ended - middle) / millions,
    }
    rates = f"{row['seconds_per_million']:.2f} s, +gptq {row['gptq_seconds_per_million']:.2f} s for a million weights"
    print(f"{text:<16}{row['bpw']:.3f} bpw  MSE {row['mse']:.5f}  {rates}", flush=True)
    return row


if __name__ == "__main__":
    raise SystemExit(main())
