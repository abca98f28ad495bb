from kbit.core.shown import shown


def test_small_values_are_quoted_as_they_are():
    for value in ("nf4", 4, None, b"x", [1, "a"], {"a": 1}, 1.5):
        assert shown(value) == repr(value)


def test_large_values_are_cut():
    for value in ("x" * 10**6, b"x" * 10**6, ["x" * 10**6] * 10**5, {str(key): "x" * 1000 for key in range(1000)}, 10**4000, [[[[[1]]]]]):
        assert len(shown(value)) < 1000
    assert shown("a" * 100 + "b" * 100).startswith("'aaa")
    assert shown("a" * 100 + "b" * 100).endswith("bbb'")


def test_control_characters_are_escaped():
    assert shown("a\x1b[31m") == r"'a\x1b[31m'"
