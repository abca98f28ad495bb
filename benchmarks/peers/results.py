"""What came of the rounds: a row a contestant, ratios to the best peer, the table."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers.files import file_bytes
from peers.rounds import Contestant, Plan

__all__ = ["add_ratios", "print_table", "row_of"]

Row = dict[str, Any]

FIGURES = (
    "prefill_tokens_per_s", "decode_tokens_per_s", "memory_roof_gb_per_s", "int8_roof_gmac_per_s", "decode_share_of_roof", "load_seconds",
    "rss_after_load_bytes", "peak_rss_bytes", "others_share",
)  # fmt: skip
SPEEDS = ("prefill", "decode")


def row_of(contestant: Contestant, model: str, parameters: int, threads: int, plan: Plan) -> Row:
    """Medians over the rounds; null figures where it failed.

    A token reads all weights: `decode_share_of_roof` is (bytes of the file / seconds a token) over the rate of a plain reading loop.
    `others_share` is the part of the processors' time that other processes took.
    """
    size = _size(contestant.path) if contestant.failure is None else None
    row: Row = {
        "model": model,
        "engine": contestant.engine.name,
        "label": contestant.engine.label,
        "type": contestant.kind,
        "threads": threads,
        "status": "ok" if contestant.failure is None else "failed",
        "reason": contestant.failure,
        "file_bytes": size,
        "bpw_file": None if size is None else 8 * size / parameters,
    }
    if size is None:
        return row | dict.fromkeys(FIGURES) | {"prefill_samples": [], "decode_samples": [], "first_tokens": []}
    prefill = [plan.prompt / sample.prefill_seconds for sample in contestant.samples]
    decode = [plan.decode / sample.decode_seconds for sample in contestant.samples]
    shares = [size * rate / 1e9 / sample.memory_roof for rate, sample in zip(decode, contestant.samples, strict=True)]
    medians = (
        prefill,
        decode,
        [sample.memory_roof for sample in contestant.samples],
        [sample.int8_roof for sample in contestant.samples],
        shares,
        [load.seconds for load in contestant.loads],
        [load.rss_bytes for load in contestant.loads],
        [sample.peak_rss_bytes for sample in contestant.samples],
        [sample.others_share for sample in contestant.samples],
    )
    row |= {name: statistics.median(values) for name, values in zip(FIGURES, medians, strict=True)}
    return row | {
        "prefill_samples": prefill,
        "decode_samples": decode,
        "first_tokens": [sample.first_token for sample in contestant.samples],
    }


def add_ratios(rows: list[Row]) -> None:
    """To each row of kbit: its speed over that of the best peer of as many or more bits per weight in the same run, and who that is."""
    for row in rows:
        for speed in SPEEDS:
            key = f"{speed}_tokens_per_s"
            best = max((peer for peer in _rivals(row, rows)), key=lambda peer: peer[key], default=None)
            row[f"{speed}_ratio"] = row[key] / best[key] if best else None
            row[f"{speed}_best_peer"] = f"{best['label']} {best['type']}" if best else None


def print_table(rows: list[Row]) -> None:
    """Models and thread counts one after another, largest files first."""
    for model, threads in dict.fromkeys((row["model"], row["threads"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["threads"]) == (model, threads)]
        good = sorted((row for row in chosen if row["status"] == "ok"), key=lambda row: -row["bpw_file"])
        print(f"\n{model}, {threads} thread{'s' * (threads > 1)}{_roofs(good)}")
        heads = ("bpw", "MB", "load s", "RSS MB", "prefill", "decode", "of roof")
        print(
            f"{'engine':18} {'type':8} {heads[0]:>6}"
            + "".join(f" {head:>8}" for head in heads[1:])
            + "   against the best peer of as many bits"
        )
        for row in good:
            print(_line(row))
        for row in chosen:
            if row["status"] != "ok":
                print(f"{row['label']:18} {row['type']:8} failed: {row['reason']}")


def _line(row: Row) -> str:
    sizes = f"{row['bpw_file']:6.2f} {row['file_bytes'] / 1e6:8.1f} {row['load_seconds']:8.2f} {row['peak_rss_bytes'] / 1e6:8.0f}"
    speeds = f"{row['prefill_tokens_per_s']:8.1f} {row['decode_tokens_per_s']:8.1f} {100 * row['decode_share_of_roof']:6.0f} %"
    ratios = [f"{speed} {row[f'{speed}_ratio']:.2f} × {row[f'{speed}_best_peer']}" for speed in SPEEDS if row.get(f"{speed}_ratio")]
    return f"{row['label']:18} {row['type']:8} {sizes} {speeds}   {', '.join(ratios)}".rstrip()


def _roofs(rows: list[Row]) -> str:
    if not rows:
        return ""
    memory, int8 = (statistics.median(row[key] for row in rows) for key in ("memory_roof_gb_per_s", "int8_roof_gmac_per_s"))
    return f"; memory roof {memory:.1f} GB/s, int8 roof of kbit's instructions {int8:.0f} G multiply-adds/s"


def _rivals(row: Row, rows: list[Row]) -> Iterable[Row]:
    if row["engine"] != "kbit" or row["status"] != "ok":
        return
    for peer in rows:
        same = all(peer[key] == row[key] for key in ("model", "threads"))
        if same and peer["engine"] != "kbit" and peer["status"] == "ok" and peer["bpw_file"] >= row["bpw_file"]:
            yield peer


def _size(path: Path | None) -> int:
    assert path is not None
    return file_bytes(path)
