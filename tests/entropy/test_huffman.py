import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.errors import DTypeError, LimitError, NumericsError
from kbit.entropy import stream
from kbit.entropy.huffman import build_tree, calculate_frequency, compress, decompress, generate_code
from kbit.entropy.stream import parse

FEW = settings(deadline=None, max_examples=80)
TEXTS = st.text(st.characters() | st.sampled_from("aab"), max_size=200)
CODES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9), elements=st.integers(0, 255))


@st.composite
def k_bit_codes(draw):
    """Codes of k bits, from even to very uneven."""
    bits, skew = draw(st.integers(1, 8)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return np.floor(2**bits * rng.random(shape) ** (skew + 1)).astype(np.uint8)


def optimal_bits(counts):
    """Least total length of a prefix code: the sum of all joins, by two queues (van Leeuwen 1976), not by a tree."""
    leaves, joins, total = sorted(counts), [], 0
    for _ in range(len(counts) - 1):
        pair = []
        for _ in range(2):
            queue = joins if not leaves or (joins and joins[0] < leaves[0]) else leaves
            pair.append(queue.pop(0))
        joins.append(sum(pair))
        total += sum(pair)
    return total


def optimal_bits_by_trying_all(counts):
    """Least total length over every assignment of lengths that Kraft's inequality allows."""
    return min(
        sum(count * length for count, length in zip(counts, lengths, strict=True))
        for lengths in product(range(1, len(counts)), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )


def partitions(count, largest=None):
    """All ways to write `count` as a sum of positive integers, in descending order."""
    if count == 0:
        yield []
    for first in range(min(count, largest or count), 0, -1):
        for rest in partitions(count - first, first):
            yield [first, *rest]


def total_bits(frequency):
    code = generate_code(build_tree(frequency))
    return sum(times * len(code[symbol]) for symbol, times in frequency.items())


# ---- frequency, tree, code


def test_frequency_of_a_text_and_of_codes():
    assert calculate_frequency("abracadabra") == {"a": 5, "b": 2, "c": 1, "d": 1, "r": 2}
    assert calculate_frequency(np.array([[3, 0], [3, 255]], np.uint8)) == {0: 1, 3: 2, 255: 1}
    assert calculate_frequency("") == {}
    assert calculate_frequency(np.zeros((0, 4), np.uint8)) == {}


def test_tree_of_the_textbook():
    root = build_tree({"a": 5, "b": 2, "c": 1, "d": 1, "r": 2})
    assert (root.frequency, root.left.symbol, root.right.frequency) == (11, "a", 6)
    assert generate_code(root) == {"a": "0", "b": "100", "c": "101", "d": "110", "r": "111"}


def test_ties_are_broken_by_age_and_give_the_flattest_tree():
    # lengths 1 2 3 3 cost the same as 2 2 2 2; the flat one is chosen
    assert generate_code(build_tree({0: 2, 1: 2, 2: 1, 3: 1})) == {0: "00", 1: "01", 2: "10", 3: "11"}


def test_nothing_and_one_symbol():
    assert build_tree({}) is None
    assert generate_code(None) == {}
    assert generate_code(build_tree({"x": 9})) == {"x": ""}


@pytest.mark.parametrize("times", [0, -1, 1.0, True, None])
def test_frequencies_that_are_none_are_refused(times):
    with pytest.raises(NumericsError, match="frequency of 'b': expected a positive integer, got"):
        build_tree({"a": 1, "b": times})


@FEW
@given(st.dictionaries(st.integers(0, 255), st.integers(1, 10**6), min_size=1, max_size=256))
def test_total_length_is_the_optimum(frequency):
    assert total_bits(frequency) == optimal_bits(list(frequency.values()))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_total_length_is_the_least_of_all_prefix_codes(counts):
    assert total_bits(dict(enumerate(counts))) == optimal_bits_by_trying_all(counts) == optimal_bits(counts)


@FEW
@given(st.dictionaries(st.integers(0, 255), st.integers(1, 10**6), min_size=2, max_size=256))
def test_length_lies_between_entropy_and_entropy_plus_one(frequency):
    count = sum(frequency.values())
    entropy = -sum(times / count * math.log2(times / count) for times in frequency.values())
    assert entropy - 1e-9 <= total_bits(frequency) / count < entropy + 1


def test_a_tree_as_deep_as_it_has_symbols_does_not_recurse():
    code = generate_code(build_tree({symbol: 1 << symbol for symbol in range(3000)}))
    assert (len(code[0]), len(code[2999])) == (2999, 1)


def test_longest_word_needs_a_fibonacci_number_of_symbols():
    # why 57 bits are enough for 2^40 symbols: depth d takes at least Fibonacci(d + 2) of them
    fibonacci = [0, 1]
    while len(fibonacci) <= 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert fibonacci[58 + 2] > stream.MAX_SYMBOLS

    def depth(counts):
        return max(map(len, generate_code(build_tree(dict(enumerate(counts)))).values()))

    for count in range(1, 19):
        for counts in partitions(count):
            assert count >= fibonacci[depth(counts) + 2]
    assert depth(fibonacci[1:59]) == 57  # and such trees are there


# ---- compress and decompress


@FEW
@given(TEXTS)
def test_texts_round_trip(text):
    assert decompress(compress(text)) == text


@FEW
@given(CODES | k_bit_codes())
def test_codes_round_trip(codes):
    back = decompress(compress(codes))
    assert (back.dtype, back.shape, back.tolist()) == (codes.dtype, codes.shape, codes.tolist())


@FEW
@given(k_bit_codes())
def test_payload_is_the_optimum_of_the_block_and_its_filling(codes):
    parsed = parse(compress(codes))
    optimum = optimal_bits(list(calculate_frequency(codes).values()))
    assert parsed.payload_bits == optimum  # "within 1 bit": not one too many
    assert len(parsed.payload) == math.ceil(optimum / 8)
    assert len(compress(codes)) == 18 + 8 * 2 + 2 * len(calculate_frequency(codes)) + math.ceil(optimum / 8) + 4


@FEW
@given(TEXTS)
def test_payload_reads_as_the_words_of_the_code(text):
    code = generate_code(build_tree(calculate_frequency(text)))
    expected = "".join(code[letter] for letter in text)
    parsed = parse(compress(text))
    assert "".join(f"{byte:08b}" for byte in parsed.payload.tolist())[: parsed.payload_bits] == expected


@FEW
@given(CODES)
def test_memory_layout_does_not_change_the_stream(codes):
    assert compress(codes.copy(order="F")) == compress(codes)
    assert compress(codes[::-1].copy() if codes.ndim else codes) == compress(codes[::-1] if codes.ndim else codes)


@pytest.mark.parametrize(
    "data", ["", "a", "aaaaaaa", "ab", "\ud800 alone", "\ud800\udc00", "𝄞", "\0\0"], ids=[f"text{n}" for n in range(8)]
)
def test_edges_of_text(data):
    assert decompress(compress(data)) == data


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 0, 2), (1,), (1, 1, 1), (5, 5)])
def test_edges_of_shape(shape):
    for fill in (0, 255):
        back = decompress(compress(np.full(shape, fill, np.uint8)))
        assert (back.shape, back.dtype, set(back.flat) <= {fill}) == (shape, np.uint8, True)


def test_a_lone_symbol_costs_no_payload_until_a_few_bytes_would_claim_the_memory(monkeypatch):
    assert parse(compress(np.zeros(10_000, np.uint8))).payload_bits == 0
    monkeypatch.setattr(stream, "LONE_SYMBOL_LIMIT", 100)
    for count, bits in ((100, 0), (101, 101)):
        data = compress(np.full(count, 9, np.uint8))
        assert parse(data).payload_bits == bits
        assert decompress(data).tolist() == [9] * count
        assert decompress(compress("z" * count)) == "z" * count


def test_streams_longer_than_one_window_round_trip():
    rng = np.random.default_rng(1)
    codes = rng.binomial(15, 0.5, (300, 1000)).astype(np.uint8)
    assert np.array_equal(decompress(compress(codes)), codes)
    text = "".join(chr(letter) for letter in rng.integers(32, 3000, 60_000))
    assert decompress(compress(text)) == text


def test_any_bytes_like_stream_is_read():
    data = compress("abracadabra")
    assert decompress(bytearray(data)) == decompress(memoryview(data)) == "abracadabra"


@pytest.mark.parametrize("data", [b"bytes", [1, 2], None, np.zeros(3, np.int64), np.zeros(3, bool), np.zeros(3)], ids=str)
def test_other_things_are_refused(data):
    with pytest.raises(DTypeError, match="expected a text or a uint8 array, got"):
        compress(data)


def test_arrays_beyond_the_limits_are_refused():
    with pytest.raises(LimitError, match="in 32 dimensions"):
        compress(np.zeros((1,) * 33, np.uint8))
    with pytest.raises(LimitError, match="at most 1099511627776 symbols"):
        compress(np.zeros((0, 2**41), np.uint8))


def test_codes_of_a_gaussian_absmax_int4_block_take_about_the_bits_known_for_them():
    # published figure: 3.50 bits of entropy for Gaussian weights, int4, one absmax scale for 64
    weights = np.random.default_rng(0).standard_normal((512, 64))
    codes = np.rint(weights / np.abs(weights).max(axis=1, keepdims=True) * 7 + 8).astype(np.uint8)
    assert 3.4 < 8 * len(compress(codes)) / codes.size < 3.6


def test_the_page_in_the_docs_says_the_truth():
    page = (Path(__file__).parents[2] / "docs" / "huffman.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert parse(compress("abracadabra")).payload_bits == 23
    assert len(compress(np.zeros((2, 2), np.uint8))) == 22 + 8 * 2 + 2
    assert len(compress("xx")) == 30 + 5
