"""Where a text is cut into pieces changes nothing: the first stop string counts, the longest of those that begin there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import SchemeError
from kbit.engine.stop_strings import StopStrings, check_stop_strings


def _reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    for place in range(len(text)):
        found = [stop for stop in stops if text.startswith(stop, place)]
        if found:
            return text[:place], max(found, key=len)
    return text, None


def _run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    watch, shown = StopStrings(stops), ""
    for piece in pieces:
        shown += watch.push(piece)
        if watch.found is not None:
            return shown, watch.found
    return shown + watch.end(), watch.found


@settings(deadline=None, max_examples=500)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
)
def test_the_pieces_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    assert _run(pieces, stops) == _reference("".join(pieces), stops)


@settings(deadline=None, max_examples=200)
@given(pieces=st.lists(st.text("ab\n", max_size=3), max_size=12), stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    watch, whole, shown = StopStrings(stops), "", ""
    for piece in pieces:
        whole, shown = whole + piece, shown + watch.push(piece)
        if watch.found is not None:
            return
        held = whole[len(shown) :]
        assert whole.startswith(shown)
        assert not held or any(stop.startswith(held) or held.startswith(stop) for stop in stops)


def test_by_hand() -> None:
    watch = StopStrings(["\n\n", "User:"])
    assert [watch.push(piece) for piece in ("Hi", ".\n", "Us", "er", ": x")] == ["Hi", ".", "\n", "", ""]
    assert watch.found == "User:"


def test_the_longer_one_is_waited_for() -> None:
    assert _run(["xa", "b"], ["a", "ab"]) == ("x", "ab")
    assert _run(["xa", "c"], ["a", "ab"]) == ("x", "a")
    assert _run(["xa"], ["a", "ab"]) == ("x", "a")
    assert _run(["ab", "c", "e"], ["bc", "abcd"]) == ("a", "bc")


@pytest.mark.parametrize("stops", [[""], [3], "text", ["a", None]])
def test_bad_stop_strings(stops: list) -> None:
    with pytest.raises(SchemeError, match=r"expected .*stop strings.*, got"):
        check_stop_strings(stops)
