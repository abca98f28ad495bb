from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import FormatError
from kbit.entropy import canonical
from kbit.entropy.canonical import code_words, pack, unpack
from kbit.entropy.stream import MAX_CODE_BITS


@st.composite
def complete_lengths(draw):
    """Lengths of a complete code: leaves of a tree that was split at random places."""
    lengths = [1, 1]
    for place in draw(st.lists(st.integers(0, 10_000), max_size=70)):
        index = place % len(lengths)
        if lengths[index] < MAX_CODE_BITS:
            lengths[index] += 1
            lengths.insert(draw(st.integers(0, len(lengths))), lengths[index])
    return np.array(lengths, np.uint8)


def as_text(lengths):
    return [f"{word:0{length}b}" for word, length in zip(code_words(lengths.tolist()), lengths.tolist(), strict=True)]


def bits_of(payload):
    return "".join(f"{byte:08b}" for byte in payload.tolist())


def decode_bit_by_bit(text, words, count):
    """The plainest decoder there is: grow a word until it is one."""
    symbol_of = {word: symbol for symbol, word in enumerate(words)}
    found, word = [], ""
    for bit in text:
        if len(found) == count:
            break
        word += bit
        if word in symbol_of:
            found.append(symbol_of[word])
            word = ""
    return found


def test_words_of_the_example_in_rfc_1951():
    # DEFLATE (RFC 1951, 3.2.2) gives symbols A…H these lengths and these canonical words
    words = code_words([3, 3, 3, 3, 3, 2, 4, 4])
    assert [f"{word:b}" for word in words] == ["10", "11", "100", "101", "110", "0", "1110", "1111"]


@settings(deadline=None, max_examples=60)
@given(complete_lengths())
def test_words_are_a_prefix_code_in_canonical_order(lengths):
    words = as_text(lengths)
    ordered = sorted(words)
    assert all(not after.startswith(before) for before, after in pairwise(ordered))
    by_rank = sorted(range(len(words)), key=lambda symbol: (lengths[symbol], symbol))
    assert [words[symbol] for symbol in by_rank] == ordered


@settings(deadline=None, max_examples=60)
@given(complete_lengths(), st.data())
def test_pack_is_the_words_one_after_another_and_unpack_inverts_it(lengths, data):
    ranks = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=200)), np.uint32)
    words = as_text(lengths)
    expected = "".join(words[rank] for rank in ranks)
    payload = pack(ranks, lengths)
    assert bits_of(payload) == expected + "0" * (-len(expected) % 8)
    back = unpack(payload, len(expected), lengths, len(ranks))
    assert back.tolist() == ranks.tolist() == decode_bit_by_bit(expected, words, len(ranks))


def test_the_longest_words_are_read_at_every_bit_offset():
    lengths = np.array([*range(1, MAX_CODE_BITS + 1), MAX_CODE_BITS], np.uint8)
    ranks = np.array([56, 0, 57, 1, 55, 2, 57, 0, 56, 3, 54, 57, 57, 56, 56], np.uint32)
    bits = int(lengths[ranks].sum(dtype=np.int64))
    assert unpack(pack(ranks, lengths), bits, lengths, len(ranks)).tolist() == ranks.tolist()


@pytest.mark.parametrize("window", [8, 16, 64])
def test_windows_and_pieces_of_any_size_give_the_same(monkeypatch, window):
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11], np.uint8)
    ranks = np.random.default_rng(0).integers(0, len(lengths), 500).astype(np.uint32)
    whole = pack(ranks, lengths)
    bits = int(lengths[ranks].sum(dtype=np.int64))
    monkeypatch.setattr(canonical, "_PACK_SYMBOLS", 7)
    monkeypatch.setattr(canonical, "_WALK_BITS", window)
    assert pack(ranks, lengths).tolist() == whole.tolist()
    assert unpack(whole, bits, lengths, len(ranks)).tolist() == ranks.tolist()


def test_more_than_256_words_keep_their_ranks():
    lengths = np.full(1024, 10, np.uint8)
    ranks = np.arange(1023, -1, -1, dtype=np.uint32)
    assert unpack(pack(ranks, lengths), 10240, lengths, 1024).tolist() == ranks.tolist()


def test_a_payload_that_ends_within_a_word_is_refused():
    lengths = np.array([1, 2, 3, 3], np.uint8)
    payload = pack(np.array([0, 3], np.uint32), lengths)  # 0 111
    with pytest.raises(FormatError, match="expected 2 code words in 3 bits, got 2 in 4"):
        unpack(payload, 3, lengths, 2)


def test_a_payload_with_more_or_fewer_words_is_refused():
    lengths = np.array([1, 2, 3, 3], np.uint8)
    payload = pack(np.array([0, 3, 0], np.uint32), lengths)
    with pytest.raises(FormatError, match="expected 2 code words in 5 bits, got 2 in 4"):
        unpack(payload, 5, lengths, 2)
    with pytest.raises(FormatError, match="expected 4 code words in 5 bits, got 3 in 5"):
        unpack(payload, 5, lengths, 4)
