"""Picture of a run: tokens a second against bits per weight, a row of panels a model, prefill beside decode.

python benchmarks/peers/plot.py RESULTS.json PICTURE.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["draw"]

Row = dict[str, Any]

#: engine → colour and mark
MARKS = {
    "kbit": ("#c1121f", "o"),
    "llama_cpp": ("#1d4e89", "s"),
    "openvino": ("#2a9d8f", "^"),
    "onnxruntime": ("#8d5a97", "D"),
    "ctranslate2": ("#e09f3e", "v"),
    "torch": ("#555555", "X"),
}
TICKS = (2, 3, 4, 5, 6, 8, 10, 16)
SPEEDS = ("prefill", "decode")


def draw(rows: list[Row], path: Path) -> None:
    """Draws the runs of the largest thread count."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "kbit", "svg.fonttype": "none", "font.size": 9}
    import matplotlib.pyplot as plt

    threads = max(row["threads"] for row in rows)
    shown = [row for row in rows if row["status"] == "ok" and row["threads"] == threads]
    models = list(dict.fromkeys(row["model"] for row in shown))
    figure, panels = plt.subplots(len(models), 2, figsize=(12, 4.6 * len(models)), squeeze=False, layout="constrained")
    for model, pair in zip(models, panels, strict=True):
        for speed, panel in zip(SPEEDS, pair, strict=True):
            _panel(panel, [row for row in shown if row["model"] == model], speed)
            panel.set_title(f"{model}: {speed}, {threads} thread{'s' * (threads > 1)}", loc="left", fontweight="bold")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)
    print(f"wrote {path}")


def _panel(panel: Any, rows: list[Row], speed: str) -> None:
    for engine, (colour, mark) in MARKS.items():
        own = sorted((row for row in rows if row["engine"] == engine), key=lambda row: row["bpw_file"])
        if not own:
            continue
        xs, ys = [row["bpw_file"] for row in own], [row[f"{speed}_tokens_per_s"] for row in own]
        size, order = (46, 3) if engine == "kbit" else (34, 2)
        panel.scatter(xs, ys, s=size, color=colour, marker=mark, label=own[0]["label"], zorder=order, edgecolors="white", linewidths=0.6)
    _name_points(panel, rows, speed)
    panel.set_xscale("log")
    panel.set_xticks(TICKS, [str(tick) for tick in TICKS])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.margins(y=0.12)
    panel.set_xlabel("bits per weight, whole file")
    panel.set_ylabel("tokens a second")
    panel.grid(color="#dddddd", linewidth=0.6, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def _name_points(panel: Any, rows: list[Row], speed: str) -> None:
    """Types beside their marks: kbit's above, the others' below."""
    for row in rows:
        ours = row["engine"] == "kbit"
        panel.annotate(
            row["type"].partition(":")[0],
            (row["bpw_file"], row[f"{speed}_tokens_per_s"]),
            xytext=(0, 6 if ours else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if ours else "top",
            fontsize=7,
            color=MARKS[row["engine"]][0],
        )


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["rows"], Path(sys.argv[2]))
