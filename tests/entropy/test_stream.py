"""Hostile streams: every one is made with a right checksum, so that the check that is meant is the one that answers."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import FormatError, IntegrityError, LimitError
from kbit.entropy import stream
from kbit.entropy.huffman import compress, decompress
from kbit.entropy.stream import CODES, TEXT, parse, serialise


def forge(kind=CODES, shape=(4,), table=((0, 1), (1, 2), (2, 2)), payload=b"\x58", bits=6, distinct=None):
    """A stream with these fields, by default the codes [0, 2, 1, 0] as words 0 11 10 0."""
    body = struct.pack("<4sBBIQ", b"KBH1", kind, len(shape), len(table) if distinct is None else distinct, bits)
    body += struct.pack(f"<{len(shape)}Q", *shape)
    body += b"".join(struct.pack("<IB" if kind == TEXT else "<BB", *entry) for entry in table) + payload
    return body + struct.pack("<I", zlib.crc32(body))


def test_the_forger_forges_what_the_encoder_writes():
    codes = np.array([0, 2, 1, 0], np.uint8)
    forged = forge(payload=b"\x70")  # 0 11 10 0 → 0111 00
    assert decompress(forged).tolist() == codes.tolist()
    assert compress(codes) == forged


def test_layout_of_a_text_byte_by_byte():
    expected = (
        b"KBH1" + b"\x00" + b"\x01" + b"\x02\x00\x00\x00" + b"\x03" + b"\x00" * 7  # magic, text, 1 dimension, 2 symbols, 3 bits
        + b"\x03" + b"\x00" * 7  # 3 characters
        + b"a\x00\x00\x00\x01" + b"b\x00\x00\x00\x01"  # both in 1 bit
        + b"\x40"  # 0 1 0 and five zeros
    )  # fmt: skip
    assert compress("aba") == expected + zlib.crc32(expected).to_bytes(4, "little")


def test_serialise_inverts_parse():
    for data in ("abracadabra", "", "zzz", np.arange(12, dtype=np.uint8).reshape(3, 4)):
        assert serialise(parse(compress(data))) == compress(data)


@pytest.mark.parametrize("data", ["abracadabra", "", "zzz", np.arange(12, dtype=np.uint8).reshape(3, 4)], ids=str)
def test_cut_anywhere_or_with_a_bit_flipped_anywhere_is_refused(data):
    whole = compress(data)
    for size in range(len(whole)):
        with pytest.raises(FormatError):
            decompress(whole[:size])
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, IntegrityError)):
            decompress(bytes(damaged))
    with pytest.raises(FormatError, match=f"expected {len(whole)} bytes by the header, got {len(whole) + 1}"):
        decompress(whole + b"\0")


HOSTILE = {
    "kind": (forge(kind=2), FormatError, r"kind at offset 4: expected 0 \(text\) or 1 \(codes\), got 2"),
    "text of two dimensions": (forge(kind=TEXT, shape=(2, 2)), FormatError, "dimensions at offset 5: expected 1, got 2"),
    "33 dimensions": (forge(shape=(1,) * 33), FormatError, "dimensions at offset 5: expected 0…32, got 33"),
    "table longer than the stream": (forge(distinct=2**32 - 1), FormatError, r"expected \d+ bytes by the header"),
    "payload longer than the stream": (forge(bits=2**64 - 1), FormatError, r"expected \d+ bytes by the header"),
    "symbol twice": (forge(table=((0, 1), (1, 2), (1, 2))), FormatError, "ascending symbols"),
    "symbols descend": (forge(table=((2, 1), (1, 2), (3, 2))), FormatError, "ascending symbols"),
    "no such character": (forge(TEXT, table=((0, 1), (1, 2), (0x110000, 2))), FormatError, "ascending symbols up to 1114111"),
    "length 0": (forge(table=((0, 0), (1, 1), (2, 1))), FormatError, "lengths of 1…57 bits, got 0…1"),
    "length 58": (forge(table=((0, 1), (1, 2), (2, 58))), FormatError, "lengths of 1…57 bits, got 1…58"),
    "length 255": (forge(table=((0, 1), (1, 2), (2, 255))), FormatError, "lengths of 1…57 bits, got 1…255"),
    "too many words": (forge(table=((0, 1), (1, 1), (2, 2))), FormatError, r"Kraft sum 1\), got 1.25"),
    "too few words": (forge(table=((0, 1), (1, 2), (2, 3))), FormatError, r"Kraft sum 1\), got 0.875"),
    "2^40 symbols and more": (forge(shape=(2**20, 2**21)), LimitError, "at most 1099511627776 symbols"),
    "shape that wraps 64 bits": (forge(shape=(2**32, 2**32)), LimitError, "at most 1099511627776 symbols"),
    "shape with 0 that wraps": (forge(shape=(0, 2**63, 2), table=(), payload=b"", bits=0), LimitError, "at most"),
    "symbols without a table": (forge(table=(), payload=b"", bits=0), FormatError, "4 symbols cannot take 0 different values"),
    "a table without symbols": (forge(shape=(0,), payload=b"", bits=0), FormatError, "0 symbols cannot take 3 different values"),
    "more symbols in the table than coded": (forge(shape=(2,), payload=b"\x50", bits=4), FormatError, "2 symbols cannot take 3"),
    "more symbols than bits": (forge(shape=(2**30,)), FormatError, r"expected 1073741824…2147483648 for 1073741824 symbols, got 6"),
    "more bits than symbols fill": (forge(payload=b"\x70\0", bits=9), FormatError, r"expected 4…8 for 4 symbols, got 9"),
    "filling": (forge(payload=b"\x72"), FormatError, "expected its last 2 bits to be 0"),
    "a word runs past the end": (forge(payload=b"\x74", bits=6), FormatError, "expected 4 code words in 6 bits, got 4 in 7"),
    "a word missing": (forge(payload=b"\xfc", bits=6), FormatError, "expected 4 code words in 6 bits, got 3 in 6"),
    "lone symbol, 1 bit": (forge(table=((7, 1),), payload=b"\0", bits=4), FormatError, "expected 0 bits for 4 times one symbol, got 1"),
    "lone symbol, 2^40 times": (
        forge(shape=(2**40,), table=((7, 0),), payload=b"", bits=0),
        FormatError,
        "expected 1 bits for 1099511627776 times one symbol, got 0",
    ),
    "lone symbol, 2^40 times in a byte": (forge(shape=(2**40,), table=((7, 1),), payload=b"\0", bits=8), FormatError, "got 8"),
    "lone symbol with a payload": (forge(table=((7, 0),), payload=b"\0", bits=8), FormatError, "expected 0…0 for 4 symbols, got 8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams_get_the_error_that_says_why(name):
    data, error, message = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            decompress(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_lone_symbol_in_bits_is_all_zeros(monkeypatch):
    monkeypatch.setattr(stream, "LONE_SYMBOL_LIMIT", 3)
    assert decompress(forge(table=((7, 1),), payload=b"\0", bits=4)).tolist() == [7] * 4
    with pytest.raises(FormatError, match="expected zeros, the only word of a lone symbol"):
        decompress(forge(table=((7, 1),), payload=b"\x20", bits=4))


def test_other_magics_and_other_things_are_refused():
    for data in (b"", b"K", b"PK\x03\x04" + bytes(40), b"KBH2" + bytes(40), bytes(40)):
        with pytest.raises(FormatError, match="expected a Huffman stream that starts with b'KBH1'"):
            parse(data)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80))
def test_garbage_behind_the_magic_is_refused(tail):
    with pytest.raises((FormatError, IntegrityError)):
        decompress(b"KBH1" + tail)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["abracadabra, said he", np.arange(30, dtype=np.uint8).reshape(5, 6) % 7]), st.data())
def test_streams_changed_under_a_right_checksum_decode_or_are_refused(original, data):
    body = bytearray(compress(original)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decompress(bytes(body) + struct.pack("<I", zlib.crc32(body)))
    except (FormatError, IntegrityError):
        return
    # what is accepted is a sound stream of something: it fits what its bytes can hold
    assert isinstance(decoded, str | np.ndarray)
    assert len(decoded) <= stream.LONE_SYMBOL_LIMIT or len(decoded) <= 8 * len(body)
