import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import FormatError
from kbit.core.strict_json import MAX_DEPTH, dump_json, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_what_is_dumped_is_parsed(value):
    assert parse_json(dump_json(value, "x"), "x") == value
    assert parse_json(json.dumps(value).encode(), "x") == value  # with ASCII escapes, surrogate pairs among them


def nested(depth, left=b"[", right=b"]"):
    return left * depth + b"1" + right * depth


def test_depth_is_bounded_without_recursion():
    for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
        parse_json(nested(MAX_DEPTH, left, right), "x")
        for depth in (MAX_DEPTH + 1, 100_000):
            with pytest.raises(FormatError, match=f"x: expected JSON at most 64 levels deep, got {depth}"):
                parse_json(nested(depth, left, right), "x")
    with pytest.raises(FormatError, match="64 levels deep, got 100000"):
        parse_json(b"[" * 100_000, "x")


def test_brackets_in_texts_and_in_rows_are_not_depth():
    for value in (["[" * 1000, "\\" * 99, '"[{' * 500], [[]] * 1000, {"a" * 70 + str(key): {} for key in range(200)}):
        assert parse_json(json.dumps(value).encode(), "x") == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JSON: Expecting value"),
        (b"\0", "expected JSON: Expecting value"),
        (b"[1,]", "expected JSON: "),
        (b"[1] 2", "expected JSON: Extra data"),
        (b"]" * 100, "expected JSON: Expecting value"),
        (b'"' + b"[" * 200, "expected JSON: Unterminated string"),
        (b"\xef\xbb\xbf[]", "expected JSON: Unexpected UTF-8 BOM"),
        (b'["\xff"]', "expected UTF-8, got byte 0xff at offset 2"),
        ("[]".encode("utf-16"), "expected UTF-8, got byte 0xff at offset 0"),
        (b'["\xed\xa0\x80"]', "expected UTF-8, got byte 0xed at offset 2"),
        (rb'["\ud800"]', "expected Unicode text, got an unpaired surrogate"),
        (rb'{"\udc00\ud800": 1}', "expected Unicode text, got an unpaired surrogate"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "expected JSON: key 'c' is there twice"),
        (rb'{"a": 1, "\u0061": 2}', "expected JSON: key 'a' is there twice"),
        (b"[NaN]", "expected JSON: NaN is no JSON number"),
        (b"[Infinity]", "expected JSON: Infinity is no JSON number"),
        (b"[-Infinity]", "expected JSON: -Infinity is no JSON number"),
        (b"[1e400]", "expected JSON: number 1e400 is beyond float64"),
        (b"[-1" + b"0" * 400 + b".0]", "expected JSON: number -1000.* is beyond float64"),
        (b"[1" + b"0" * 5000 + b"]", "expected JSON: Exceeds the limit"),
        (b'["a\nb"]', "expected JSON: Invalid control character"),
    ],
)
def test_what_is_not_strict_json_is_refused(data, message):
    with pytest.raises(FormatError, match=f"^f.json: .*{message}") as caught:
        parse_json(data, "f.json")
    assert len(str(caught.value)) < 300


def test_pairs_of_surrogate_escapes_are_characters():
    assert parse_json(rb'["\ud835\udd04"]', "x") == ["𝔄"]


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": -math.inf}, {1: "a"}, {"a": {None: 1}}, [{True: 1}], b"bytes", {1, 2}, object(), "\udc00", {"\ud800": 1}],
    ids=repr,
)
def test_what_json_cannot_hold_is_not_dumped(value):
    with pytest.raises(FormatError, match=r"^f.json: expected a value that JSON can hold: "):
        dump_json(value, "f.json")


def test_what_could_not_be_read_back_is_not_dumped():
    deep = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(FormatError, match="at most 64 levels deep, got 65"):
        dump_json(deep, "x")
    for _ in range(5000):
        deep = [deep]
    endless = []
    endless.append(endless)
    for value in (deep, endless):
        with pytest.raises(FormatError, match="expected a value that JSON can hold: "):
            dump_json(value, "x")
