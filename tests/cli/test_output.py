"""How verbs speak: tables, JSON, errors and exit codes."""

import json

import numpy as np
import pytest
import typer

from kbit.cli.output import Output, columns, verb
from kbit.core.errors import FormatError, StorageError


def test_json_goes_to_stdout_and_words_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("words")
    output.note("progress")
    output.result({"a": 1, "inf": float("inf"), "nan": float("nan"), "numpy": np.float32(0.5), "list": (1, None, True), "text": "é"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": 1, "inf": None, "nan": None, "numpy": 0.5, "list": [1, None, True], "text": "é"}
    assert captured.err == "words\nprogress\n"


def test_without_json_words_go_to_stdout_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.say("words")
    output.result({"a": 1})
    assert capsys.readouterr().out == "words\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FormatError("not\na  model"), 1, "kbit: not a model\n"),
        (StorageError(28, "No space left", "x"), 1, "kbit: x: No space left\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "kbit: x: No such file\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    @verb
    def failing() -> None:
        raise error

    with pytest.raises(typer.Exit) as stopped:
        failing()
    assert stopped.value.exit_code == code
    assert capsys.readouterr().err == words


def test_debug_shows_the_traceback_first(capsys: pytest.CaptureFixture[str]) -> None:
    @verb
    def failing(debug: bool = False) -> None:
        raise FormatError("broken")

    with pytest.raises(typer.Exit):
        failing(debug=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "kbit: broken"


def test_a_bug_is_not_disguised_as_a_users_error() -> None:
    @verb
    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()


def test_columns_line_up() -> None:
    assert columns(["name", "size"], [["a", "1"], ["long", "100"]]).splitlines() == ["name  size", "────  ────", "a        1", "long   100"]
