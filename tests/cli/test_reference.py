"""The page made from the verbs is the page in the repository, and it covers every verb and option."""

from pathlib import Path

import pytest
import typer.main

from kbit.cli.main import app
from kbit.cli.reference import KEYS, markdown

VERBS = {"demo", "quantize", "calibrate", "eval", "bench", "run", "show", "decode", "verify", "doctor"}
PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "docs/cli.md is stale: run scripts/docs"


@pytest.mark.parametrize("name", KEYS)
def test_every_verb_has_help_for_every_option_and_both_common_ones(name: str) -> None:
    command = typer.main.get_command(app).commands[name]
    assert command.help
    options = [option for parameter in command.params for option in parameter.opts]
    assert {"--json", "--debug"} <= set(options)
    assert all(parameter.help for parameter in command.params)
    page = markdown().partition(f"\n## kbit {name}\n")[2].partition("\n## ")[0]
    assert all(option in page for option in options if option.startswith("-") and option not in ("--json", "--debug", "--help", "-h"))


def test_the_verbs_are_those_of_the_contract() -> None:
    assert set(typer.main.get_command(app).commands) == set(KEYS) == VERBS
