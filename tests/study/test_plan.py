from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.core.errors import FormatError, SchemeError
from kbit.study.cost import cell_gmacs
from kbit.study.expand import expand
from kbit.study.plan import StudyPlan

Planned = Callable[..., Path]


def test_reads_every_combination_once(planned: Planned) -> None:
    plan = StudyPlan.read(planned("read"))
    texts = [planned.scheme.text for planned in plan.schemes]
    assert texts == ["16", "int3:g32", "int3:g32+imp+gptq", "nf3:g32", "nf3:g32+imp+gptq"]
    assert [(model.name, model.family) for model in plan.models] == [("a", "tiny"), ("b", "other")]
    assert plan.text.windows == 3
    assert plan.calibration is not None
    assert plan.calibration.seeds == (0,)
    assert plan.speed is None


def test_schemes_by_their_text_and_without_originals(planned: Planned) -> None:
    new = '[[schemes]]\nschemes = ["float4e2:g32:e4m3", "int3:g32"]\n[[schemes]]\n'
    plan = StudyPlan.read(planned("texts", ("[[schemes]]\n", new), ('name = "tiny"\n', 'name = "tiny"\noriginals = false\n')))
    assert [planned.scheme.text for planned in plan.schemes][:2] == ["float4e2:g32:e4m3", "int3:g32"]
    assert len(plan.schemes) == 5


def test_schemes_for_some_models_and_without_speed(planned: Planned) -> None:
    new = '[speed]\nthreads = [1]\n[[schemes]]\nschemes = ["int5:g32", "int3:g32"]\nmodels = ["b"]\nspeed = false\n[[schemes]]\n'
    plan = StudyPlan.read(planned("some", ("[[schemes]]\n", new)))
    cells = expand(plan, "machine")
    schemes = {model: [cell.scheme for cell in cells.quality if cell.model == model] for model in ("a", "b")}
    assert schemes["a"] == ["16", "int3:g32", "int3:g32+imp+gptq", "nf3:g32", "nf3:g32+imp+gptq"]
    assert schemes["b"] == ["16", "int5:g32", "int3:g32", "int3:g32+imp+gptq", "nf3:g32", "nf3:g32+imp+gptq"]
    assert [cell.scheme for cell in cells.speed] == ["16", "int3:g32", "nf3:g32"] * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("windows = 3", "window = 3", r"text\.window: unknown word 'window'.*did you mean 'windows'"),
        ("windows = 3", "windows = -1", r"text\.windows: expected an integer of at least 0, got -1"),
        ("contexts = [32]", "contexts = []", r"text\.contexts"),
        ("contexts = [32]", 'contexts = ["32"]', r"text\.contexts: expected a list of integers"),
        ('paths = ["heldout.txt"]', 'paths = ["nowhere.txt"]', r"text\.paths: expected a text, got nothing"),
        ('grids = ["int", "nf"]', 'grids = ["int", "nff"]', r"schemes\[0\].*unknown grid 'nff'.*did you mean 'nf'"),
        ('"imp+gptq"', '"imp+gtpq"', r"schemes\[0\].*unknown method 'gtpq'.*did you mean 'gptq'"),
        ("bits = [3]", 'bits = [3]\nmodels = ["bb"]', r"schemes\[0\]\.models: no model 'bb' in this plan.*did you mean 'b'"),
        ("bits = [3]", "bits = [9]", r"schemes\[0\].*1…8 bits, got 9"),
        ("group_sizes = [32]", "group_sizes = [33]", r"schemes\[0\].*group_size"),
        ('family = "other"', 'famly = "other"', r"models\[1\]\.famly: unknown word"),
        ('path = "b"', 'path = "b"\nname = "a"', r"models\[1\]\.name: there is a model 'a' already"),
        ('path = "a"\n', "", r"models\[0\]\.path is missing"),
        ('name = "tiny"\n', "", r"name is missing"),
        ("[calibration]", "[callibration]", r"calibration is missing: 'int3:g32\+imp\+gptq' needs"),
        ('name = "tiny"', 'name = "tiny"\nembedding = "nf4:g6"', r"embedding.*group_size"),
        ("[[models]]", "[[models]]\nspeed = 1", r"models\[0\]\.speed: unknown word"),
    ],
)
def test_names_file_and_field(planned: Planned, old: str, new: str, message: str) -> None:
    path = planned("bad", (old, new))
    with pytest.raises((SchemeError, FormatError), match=message) as caught:
        StudyPlan.read(path)
    assert str(path) in str(caught.value)


def test_methods_that_look_at_weights_alone_need_no_calibration(planned: Planned) -> None:
    calibration = '[calibration]\npaths = ["text.txt"]\ntokens = 128\n'
    bare = planned("bare", (calibration, ""), ('"imp+gptq"', '"hqq"'))
    assert [planned.scheme.text for planned in StudyPlan.read(bare).schemes][2] == "int3:g32+hqq"
    both = planned("both", ('"imp+gptq"', '"hqq", "imp+gptq"'))
    cells = {cell.scheme: cell for cell in expand(StudyPlan.read(both), "here").quality if cell.model == "a"}
    assert (cells["int3:g32+hqq"].calibration_sha256, cells["int3:g32+hqq"].calibration_tokens) == ("", 0)
    assert cells["int3:g32+imp+gptq"].calibration_tokens == 128
    assert cell_gmacs(cells["int3:g32+hqq"], 96) < cell_gmacs(cells["int3:g32+imp+gptq"], 96)


def test_refuses_what_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b"name = \xff")
    with pytest.raises(FormatError, match=str(path)):
        StudyPlan.read(path)
    path.write_text("name = \n")
    with pytest.raises(FormatError, match="line 1"):
        StudyPlan.read(path)
