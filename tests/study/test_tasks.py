import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.study.run import run_study

TASK = """
task: next_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
  cache_dir: {cache}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: [" the", " sea"]
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_accuracy_of_tasks_from_a_folder(lab: Path, planned: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder = lab / "tasks"
    folder.mkdir(exist_ok=True)
    items = [{"text": f"the whale and the {word}", "answer": index % 2} for index, word in enumerate(["sea", "old", "ship", "waves"] * 3)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "next_word.yaml").write_text(TASK.format(data=folder / "items.jsonl", cache=tmp_path / "cache"))
    tasks = '[tasks]\nnames = ["next_word"]\nfolder = "tasks"\n[text]'
    plan = planned(
        "tasks", ("[text]", tasks), ('[[models]]\npath = "b"\nfamily = "other"\n', ""), ('"int", "nf"', '"int"'), ('"", "imp+gptq"', '""')
    )
    found = run_study(plan, tmp_path / "s.db", workers=1)
    assert [row["reason"] for row in found.rows] == [None, None]
    for row in found.rows:
        figures = json.loads(row["tasks"])["next_word"]
        assert row["accuracy"] == figures["acc"] == pytest.approx(round(12 * figures["acc"]) / 12)
        assert figures["acc_stderr"] >= 0
    unknown = planned("unknown", ("[text]", tasks.replace('"next_word"', '"no_such"')))
    assert all("no_such" in row["reason"] for row in run_study(unknown, tmp_path / "s.db", workers=1).failed)
