from pathlib import Path

import pytest

from kbit.core.errors import FormatError, LimitError, SchemeError, StorageError
from kbit.core.tables import Table, read_toml


@pytest.fixture
def table() -> Table:
    values = {
        "word": "a",
        "count": 3,
        "share": 0.5,
        "on": True,
        "many": ["a", "b"],
        "numbers": [1, 2],
        "in": {"x": 1},
        "list": [{"y": 1}, {}],
    }
    return Table(values, "file.toml")


def test_reads_each_type(table: Table) -> None:
    assert table.text("word") == "a"
    assert table.integer("count") == 3
    assert table.number("share") == 0.5
    assert table.number("count") == 3.0
    assert table.flag("on", False) is True
    assert table.texts("many") == ("a", "b")
    assert table.texts("word") == ("a",)
    assert table.integers("numbers") == (1, 2)
    assert table.integers("count") == (3,)
    assert table.table("in").integer("x") == 1
    assert table.tables("list")[0].integer("y") == 1
    assert table.text("no", None) is None
    assert "count" in table
    assert list(table)[:2] == ["word", "count"]
    table.finish()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.text("count"), "file.toml: count: expected a text, got 3"),
        (lambda t: t.integer("on"), "on: expected an integer of at least 1, got True"),
        (lambda t: t.integer("count", most=2), r"count: expected an integer in 1…2, got 3"),
        (lambda t: t.number("word"), "word: expected a number"),
        (lambda t: t.number("share", least=1.0), "share: expected a number of at least 1.0"),
        (lambda t: t.flag("count", True), "count: expected true or false"),
        (lambda t: t.texts("numbers"), "numbers: expected a list of texts"),
        (lambda t: t.integers("many"), "many: expected a list of integers"),
        (lambda t: t.table("word"), "word: expected a table"),
        (lambda t: t.tables("in"), r"in: expected tables \[\[in\]\]"),
        (lambda t: t.text("word", choices=["abc"]), "word: unknown word 'a'"),
        (lambda t: t.text("wrd"), "file.toml: wrd is missing"),
        (lambda t: t.table("in").text("x"), r"file.toml: in\.x: expected a text"),
        (lambda t: t.tables("list")[1].text("z"), r"list\[1\]\.z is missing"),
        (lambda t: t.finish(), "unknown word 'word'"),
    ],
)
def test_names_file_and_field(table: Table, ask: object, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        ask(table)  # type: ignore[operator]


def test_suggests_the_closest_word() -> None:
    table = Table({"widnows": 3}, "f")
    table.integer("windows", 0)
    with pytest.raises(SchemeError, match="did you mean 'windows'"):
        table.finish()


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.toml"
    path.write_text("a = 1\n[b]\nc = 'x'")
    assert read_toml(path).table("b").text("c") == "x"
    path.write_text("a = 1\na = 2")
    with pytest.raises(FormatError, match=r"a\.toml: expected TOML"):
        read_toml(path)
    with pytest.raises(StorageError):
        read_toml(tmp_path / "b.toml")
    monkeypatch.setattr("kbit.core.tables.MAX_TOML_BYTES", 4)
    with pytest.raises(LimitError):
        read_toml(path)
