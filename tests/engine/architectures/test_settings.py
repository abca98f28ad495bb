from typing import Any

import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures.settings import ACTIVATIONS, Settings


def settings(**values: Any) -> Settings:
    return Settings(values, "test")


def test_values_come_typed() -> None:
    values = settings(n=3, x=0.5, whole=2, flag=True, act="gelu_new", factors=[1, 2.5], layers=[0, 2], words=["a", "b"], inner={"n": 1})
    assert values.integer("n") == 3
    assert values.number("x") == 0.5
    assert isinstance(values.number("whole"), float)
    assert values.flag("flag", default=False)
    assert values.activation("act", default="relu") == "gelu_tanh"
    assert values.numbers("factors", 2) == (1.0, 2.5)
    assert values.indices("layers") == {0, 2}
    assert values.words("words", 2, ("a", "b", "c")) == ("a", "b")
    inner = values.nested("inner")
    assert inner is not None
    assert (inner.name, inner.integer("n")) == ("test: inner", 1)


def test_the_first_key_that_is_there_counts() -> None:
    assert settings(hidden_size=3).integer("n_embd", "hidden_size") == 3
    assert settings(n_embd=None, hidden_size=3).integer("n_embd", "hidden_size") == 3
    assert settings(n_embd=2, hidden_size=3).integer("n_embd", "hidden_size") == 2


def test_defaults_stand_for_what_is_absent() -> None:
    empty = settings(null=None)
    assert empty.integer("n", default=4) == empty.integer("null", default=4) == 4
    assert empty.number("x", default=0.1) == 0.1
    assert empty.flag("flag", default=True)
    assert empty.activation("act", default="silu") == "silu"
    assert empty.indices("layers") == frozenset()
    assert empty.words("words", 2, ("a",)) is None
    assert empty.nested("inner") is None


def test_null_says_that_there_is_none_and_absence_nothing() -> None:
    values = settings(null=None, n=3, x=0.5)
    assert values.optional_integer("null", default=4) is None
    assert values.optional_integer("absent", default=4) == 4
    assert values.optional_integer("n", default=4) == 3
    assert values.optional_number("null", default=0.1) is None
    assert values.optional_number("absent", default=0.1) == 0.1
    assert values.optional_number("x") == 0.5


@pytest.mark.parametrize("value", [None, 0, -1, 2.0, "3", True, 1 << 50, [3]])
def test_integers_are_bounded(value: object) -> None:
    with pytest.raises(ModelError, match="test: 'n': expected an integer in 1…2147483647, got "):
        settings(n=value).integer("n")


def test_layers_are_bounded() -> None:
    assert settings(num_hidden_layers=3).layers() == range(3)
    assert settings(n_layer=3).layers("n_layer") == range(3)
    for count in (0, 4097):
        with pytest.raises(ModelError, match=f"'num_hidden_layers': expected an integer in 1…4096, got {count}"):
            settings(num_hidden_layers=count).layers()


@pytest.mark.parametrize("value", [None, 0.0, -2, "3", True, float("inf"), float("nan"), 10**400])
def test_numbers_are_bounded(value: object) -> None:
    with pytest.raises(ModelError, match="test: 'x': expected a number above 0, got "):
        settings(x=value).number("x")


def test_keys_of_several_names_are_all_named() -> None:
    with pytest.raises(ModelError, match="test: 'n_embd' or 'hidden_size': expected an integer"):
        settings().integer("n_embd", "hidden_size")


def test_other_types_are_refused() -> None:
    values = settings(flag=1, act="silou", worse=3, factors=[1, 0], short=[1], layers=[-1], words=["a", "d"], inner=[1])
    for key, call in (
        ("'flag': expected true or false, got 1", lambda: values.flag("flag", default=True)),
        (r"'act': expected an activation \(did you mean 'silu'", lambda: values.activation("act", default="relu")),
        (r"'worse': expected an activation \(known: gelu", lambda: values.activation("worse", default="relu")),
        ("'factors': expected a list of 2 positive numbers", lambda: values.numbers("factors", 2)),
        ("'short': expected a list of 2 positive numbers", lambda: values.numbers("short", 2)),
        ("'layers': expected a list of layer indices", lambda: values.indices("layers")),
        ("'words': expected a list of 2 of a, b", lambda: values.words("words", 2, ("a", "b"))),
        ("'words': expected a list of 3 of a, d", lambda: values.words("words", 3, ("a", "d"))),
        ("'inner': expected an object", lambda: values.nested("inner")),
    ):
        with pytest.raises(ModelError, match=f"test: {key}"):
            call()


def test_options_that_are_not_done_are_refused() -> None:
    values = settings(cross=True, none=None, kind="relative", cap=3.0)
    values.only("absent", False)
    values.only("none", False)
    values.only("cross", True)
    for key, expected, word in (("cross", False, "False"), ("kind", "absolute", "'absolute'"), ("cap", None, "no value")):
        with pytest.raises(ModelError, match=f"test: '{key}': expected {word}, got"):
            values.only(key, expected)


def test_every_activation_is_one_of_the_engines() -> None:
    from kbit.engine.arithmetic import ACTIVATIONS as KNOWN

    assert set(ACTIVATIONS.values()) <= set(KNOWN)
