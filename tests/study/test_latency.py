"""The law of a token's time finds what made the rows."""

import json

import pytest

from kbit.core.errors import NumericsError
from kbit.study.laws.latency import LatencyLaw, Load, row_load
from kbit.study.rows import Row

VALUES = (1.2, 2.0, 8e-6, 5e-5)


def _row(params: int, bits: int, threads: int, layers: int) -> Row:
    read, memory, compute = params * bits / 8, 12.0 * threads, 400.0 * threads
    load = Load(read, params, layers, memory, compute)
    extra: dict[str, float | str] = {
        "weight_bytes_per_token": read, "memory_roof_gb_per_s": memory, "int8_roof_gmac_per_s": compute, "layers": layers,
        "threads": threads, "decode_tokens_per_s": 1 / LatencyLaw(VALUES).seconds(load),
    }  # fmt: skip
    return Row("f", params, "nearest", bits, 64, bits, "text", 512, 9.0, "", extra)


ROWS = [
    _row(params, bits, threads, layers)
    for params, layers in ((10**6, 4), (3 * 10**7, 8), (10**9, 16))
    for bits in (2, 4, 8)
    for threads in (1, 2)
]


def test_finds_what_made_the_rows() -> None:
    law = LatencyLaw.fit(ROWS)
    assert law.values == pytest.approx(VALUES, rel=0.05)
    assert law.error is not None
    assert law.error < 0.02
    again = LatencyLaw.from_json(json.loads(json.dumps(law.to_json())))
    assert again == law


def test_rows_that_tell_no_speed_do_not_count() -> None:
    silent = Row("f", 10**6, "nearest", 4, 64, 4.25, "text", 512, 9.0)
    assert row_load(silent) is None
    with pytest.raises(NumericsError, match="latency: expected at least 4 rows"):
        LatencyLaw.fit([silent] * 9)
    with pytest.raises(ValueError, match="none negative"):
        LatencyLaw.from_json({"values": [1.0, -1.0, 0.0, 0.0]})
