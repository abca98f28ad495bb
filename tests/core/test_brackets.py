"""Nesting against a walk over the bytes one by one, across piece boundaries; linear on what makes regular expressions quadratic."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core import brackets
from kbit.core.brackets import Nesting, nesting


def walk(data: bytes, most: int) -> Nesting:
    """The same by hand: a backslash hides the next byte, a quote starts or ends a string, brackets count outside of strings."""
    deepest = depth = 0
    outside, in_string, at = -1, False, 0
    while at < len(data):
        byte = data[at : at + 1]
        if byte == b"\\":
            at += 2
            continue
        in_string ^= byte == b'"'
        if not in_string and byte in (b"[", b"{", b"]", b"}"):
            depth += 1 if byte in (b"[", b"{") else -1
            deepest = max(deepest, depth)
            if outside < 0 and not 0 <= depth <= most:
                outside = at
        at += 1
    return Nesting(deepest, depth, outside)


# a backslash hides a backslash or a quote here, as in any string; before other bytes it hides nothing that counts
TEXTS = st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\\\", b'\\"', b"\\n", b"x", b" ", "é".encode()]), max_size=60).map(
    b"".join
)


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.integers(1, 9), st.integers(0, 5))
def test_nesting_equals_a_walk_over_the_bytes(data: bytes, piece: int, most: int) -> None:
    before, brackets._PIECE_BYTES = brackets._PIECE_BYTES, piece
    try:
        assert nesting(data, most) == walk(data, most)
    finally:
        brackets._PIECE_BYTES = before


VALUES = st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15)


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_json_is_balanced(value: object) -> None:
    def depth(item: object) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert nesting(text.encode(), 1000) == (depth(value), 0, -1)


@pytest.mark.parametrize(
    "data", [b'{"a":"' + b'\\"' * 10_000_000, b'"' * 20_000_000, b"\\" * 20_000_001, b'{"a":[' + b'"",' * 6_000_000], ids=range(4)
)
def test_strings_without_end_take_no_longer_than_others(data: bytes) -> None:
    """Matching such a text string by string would begin again at every quote: hours instead of a moment."""
    assert nesting(data, 64).deepest <= 2
