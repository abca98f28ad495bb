import pytest

from kbit.core.errors import SchemeError
from kbit.core.methods import needs_inputs, refuse_uncalibrated
from kbit.core.rotation import rotation_block
from kbit.core.scheme import Scheme


@pytest.mark.parametrize(
    ("cols", "block"),
    [
        (16, 16),
        (48, 16),
        (80, 16),
        (768, 256),
        (2048, 2048),
        (4096, 4096),
        (5632, 512),
        (11008, 256),
        (14336, 2048),
        (1, 0),
        (40, 0),
        (1000, 0),
    ],
)
def test_blocks_are_the_largest_power_of_two_that_divides(cols: int, block: int) -> None:
    assert rotation_block(cols) == block


@pytest.mark.parametrize(
    "text", ["int3:g64+rotate", "nf4:g16+rotate+imp", "kmeans2:g64+rotate+imp+actorder+gptq", "int4:g-1:asym:mse+rotate+gptq"]
)
def test_texts_round_trip(text: str) -> None:
    assert Scheme.parse(text).text == text
    assert Scheme.from_json(Scheme.parse(text).to_json()).text == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int3:g64+gptq+rotate", r"expected the methods in the order '\+rotate\+gptq'"),
        ("int3:g64+rotate+rotate", "'rotate' is given twice"),
        ("int3:g64+rotat", "did you mean 'rotate'"),
        ("int3:g64:rotate", "expected it at the end after a '\\+'"),
        ("16+rotate", "cannot read scheme"),
    ],
)
def test_misplaced_words_are_refused(text: str, words: str) -> None:
    with pytest.raises(SchemeError, match=words):
        Scheme.parse(text)


def test_rows_that_cannot_be_rotated_are_recorded_without() -> None:
    scheme = Scheme.parse("int3:g64+rotate+gptq")
    assert scheme.for_row(128) is scheme
    assert scheme.for_row(100).text == "int3:g64+gptq"
    assert scheme.for_row(40).text == "int3:g-1+gptq"
    assert Scheme.parse("int3:g128+rotate").for_row(48).text == "int3:g-1+rotate"


def test_rotation_needs_no_calibration() -> None:
    refuse_uncalibrated(("rotate",), "w")
    assert not needs_inputs(("rotate",))
    assert not needs_inputs(())
    assert needs_inputs(("rotate", "imp"))
    with pytest.raises(SchemeError, match=r"w: '\+rotate\+gptq' needs a calibration text"):
        refuse_uncalibrated(("rotate", "gptq"), "w")
