import json
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.data_types import DEFAULT_EXPONENT_BITS, GRIDS
from kbit.core.errors import SchemeError
from kbit.core.scheme import KEEP, Scheme

from .strategies import schemes

MANY = settings(deadline=None, max_examples=60)
NF4 = Scheme("nf", 4)


# ---- Scheme: three forms of one value


@MANY
@given(schemes())
def test_text_and_json_give_the_scheme_back(scheme):
    assert Scheme.parse(scheme.text) == scheme
    assert Scheme.parse(f" {scheme} \n") == scheme
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme


@MANY
@given(schemes(), schemes())
def test_equal_schemes_have_equal_texts_and_only_they(one, other):
    assert (one == other) == (one.text == other.text) == (one.to_json() == other.to_json())
    assert one != other or hash(one) == hash(other)


@MANY
@given(schemes(), st.randoms())
def test_options_may_come_in_any_order(scheme, random):
    start, *methods = scheme.text.split("+")
    head, *options = start.split(":")
    random.shuffle(options)
    assert Scheme.parse("+".join([":".join([head, *options]), *methods])) == scheme


@MANY
@given(st.text(alphabet="nfintlogea0123456789:gr-msyqdx16 ") | st.text())
def test_any_text_is_a_scheme_or_a_scheme_error(text):
    try:
        scheme = Scheme.parse(text)
    except SchemeError:
        return
    assert Scheme.parse(scheme.text) == scheme


@pytest.mark.parametrize(
    ("text", "canonical", "values"),
    [
        ("nf4:g64", "nf4:g64", ("nf", 4)),
        ("nf4", "nf4:g64", ("nf", 4)),
        ("int3:g128:asym:mse", "int3:g128:asym:mse", ("int", 3, None, None, 128, False, "mse")),
        ("int3:mse:asym:g128", "int3:g128:asym:mse", ("int", 3, None, None, 128, False, "mse")),
        ("float4e2:g32:e4m3", "float4e2:g32:e4m3", ("float", 4, 2, None, 32, True, "absmax", "e4m3")),
        ("float8", "float8e4:g64", ("float", 8, 4)),
        ("log4r2:g64", "log4r2:g64", ("log", 4, None, 2)),
        ("log4r1", "log4:g64", ("log", 4, None, 1)),
        ("kmeans3:g128", "kmeans3:g128", ("kmeans", 3, None, None, 128)),
        ("int8:g-1", "int8:g-1", ("int", 8, None, None, -1)),
        ("nf2:dq8", "nf2:g64:dq8", ("nf", 2, None, None, 64, True, "absmax", "dq8")),
        ("nf2:fp16", "nf2:g64", ("nf", 2)),
        ("16", "16", ("none", 16)),
        ("vq2d3", "vq2d3:g96", ("vq", 6, None, None, 96, True, "absmax", "fp16", (), 3)),
        ("vq2.5d2:g128+imp", "vq2.5d2:g128+imp", ("vq", 5, None, None, 128, True, "mse", "fp16", ("imp",), 2)),
        ("nvq3d2:e4m3", "nvq3d2:g64:e4m3", ("nvq", 6, None, None, 64, True, "absmax", "e4m3", (), 2)),
        ("int3:g128+gptq", "int3:g128+gptq", ("int", 3, None, None, 128, True, "absmax", "fp16", ("gptq",))),
        ("nf3+imp", "nf3:g64+imp", ("nf", 3, None, None, 64, True, "mse", "fp16", ("imp",))),
        ("nf3:mse:g64+imp", "nf3:g64+imp", ("nf", 3, None, None, 64, True, "absmax", "fp16", ("imp",))),
        ("nf3:mse+gptq", "nf3:g64:mse+gptq", ("nf", 3, None, None, 64, True, "mse", "fp16", ("gptq",))),
    ],
)
def test_texts_of_the_documentation(text, canonical, values):
    scheme = Scheme.parse(text)
    assert scheme == Scheme(*values)
    assert (scheme.text, str(scheme)) == (canonical, canonical)


def test_details_left_out_are_filled_in():
    for bits in GRIDS["float"]:
        assert Scheme("float", bits).exponent_bits == DEFAULT_EXPONENT_BITS[bits]
    assert Scheme("log", 4) == Scheme("log", 4, per_octave=1)
    assert set(DEFAULT_EXPONENT_BITS) == set(GRIDS["float"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vq2", r"lacks the weights that one code stands for: expected 'vq2d3' or 'vq2d2'"),
        ("vq2e3", r"lacks the weights"),
        ("vq2d4", r"defined for 1d2, 1\.5d2, 2d2, 2\.5d2, 3d2, 1d3, 2d3, got 8 bits a code for 4 weights"),
        ("vq2.5d3", r"defined for .*, got 7 bits a code for 3 weights"),
        ("nvq4d2", r"grid 'nvq' is defined for .*, got 8 bits a code for 2 weights"),
        ("vq2d3:g128", r"with 3 weights a code hold a multiple of 96: g96 or g192, got g128"),
        ("vq2d2:g32", r"multiple of 64: g64, got g32"),
        ("int2.5", r"bits of the int grid are whole numbers, got 2\.5"),
        ("int3d2", r"codes of the int grid stand for one weight, got dims 2"),
        ("vq2d3:asym", r"'asym' is defined for the int grid only"),
    ],
)
def test_vector_schemes_that_do_not_exist(text, message):
    with pytest.raises(SchemeError, match=message):
        Scheme.parse(text)


def test_bits_of_a_weight():
    assert [Scheme.parse(text).weight_bits for text in ("vq2d3", "vq2.5d2", "nf4", "nvq1d2")] == [2, 2.5, 4, 1]


def test_a_group_longer_than_the_row_is_one_scale_a_row():
    scheme = Scheme.parse("int3:g128:asym:mse")
    assert scheme.for_row(128) is scheme
    assert scheme.for_row(127).text == scheme.for_row(1).text == "int3:g-1:asym:mse"
    per_row, keep = Scheme.parse("nf4:g-1"), Scheme.parse("16")
    assert per_row.for_row(1) is per_row
    assert keep.for_row(1) is keep


def test_sixteen_leaves_a_tensor_alone():
    assert KEEP.is_none
    assert KEEP.text == "16"
    assert not NF4.is_none
    assert Scheme.parse("16") == KEEP


def test_a_scheme_does_not_change():
    with pytest.raises(FrozenInstanceError):
        NF4.bits = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read scheme '': expected a grid and its bits first, such as 'nf4'; known: dynamic, float"),
        ("nf", "cannot read scheme 'nf': expected a grid and its bits first, such as 'nf4'; did you mean 'nf'"),
        ("4nf", "cannot read scheme '4nf'"),
        ("NF4", "cannot read scheme 'NF4'"),
        ("nf 4", "cannot read scheme 'nf 4'"),
        ("nf4.0", "cannot read scheme"),
        ("nf-4", "cannot read scheme"),
        ("nf٤", "cannot read scheme"),
        ("float4e2r3", "cannot read scheme"),
        ("16:g64", "cannot read scheme '16:g64'"),
        ("flaot4", "unknown grid 'flaot': did you mean 'float'"),
        ("xyz4", "unknown grid 'xyz': known: dynamic, float, int, kmeans, log, nested, nf, nvq, quantile, trellis, vq"),
        ("none16", "unknown grid 'none'"),
        ("nf0", "grid 'nf' is defined for 1…8 bits, got 0"),
        ("nf9", "grid 'nf' is defined for 1…8 bits, got 9"),
        ("float1", "grid 'float' is defined for 2…8 bits, got 1"),
        ("nf" + "9" * 5000, "grid 'nf' is defined for 1…8 bits, got 9999999999"),
        ("nf4:", "unknown option '' in scheme 'nf4:'"),
        ("nf4+", "unknown method '': known: "),
        ("nf4+gtpq", "unknown method 'gtpq': did you mean 'gptq'?"),
        ("nf4+gptq+imp", "expected the methods in the order '+imp+gptq', got '+gptq+imp'"),
        ("nf4:gptq", "'gptq' is a method in scheme 'nf4:gptq': expected it at the end after a '+', such as 'int3:g64+gptq'"),
        ("nf4+gptq:g64", "unknown method 'gptq:g64'"),
        ("nf4:g64:", "unknown option ''"),
        ("nf4:asim", "unknown option 'asim' in scheme 'nf4:asim': did you mean 'asym'?"),
        ("nf4:g", "unknown option 'g'"),
        ("nf4:g٦٤", "unknown option 'g٦٤'"),
        ("nf4:g6.4", "unknown option 'g6.4'"),
        ("nf4:g" + "1" * 5000, "unknown option 'g111"),
        ("nf" * 5001, "a scheme has at most 10000 characters, got 10002: 'nfnf"),
        ("nf4:g0", "group_size must be -1 or a multiple of 16 in 16…1024, got 0"),
        ("nf4:g8", "group_size must be -1 or a multiple of 16 in 16…1024, got 8"),
        ("nf4:g100", "group_size must be -1 or a multiple of 16 in 16…1024, got 100"),
        ("nf4:g2048", "group_size must be -1 or a multiple of 16 in 16…1024, got 2048"),
        ("nf4:g-2", "group_size must be -1 or a multiple of 16 in 16…1024, got -2"),
        ("nf4:g64:g64", "scheme 'nf4:g64:g64' gives group_size twice"),
        ("nf4:fp16:dq8", "scheme 'nf4:fp16:dq8' gives scale_dtype twice"),
        ("int4:asym:asym", "gives symmetric twice"),
        ("nf4:mse:mse", "gives scale_search twice"),
        ("nf4:asym", "'asym' is defined for the int grid only, got 'nf'"),
        ("nf4e2", "exponent bits belong to the float grid, not to 'nf'"),
        ("float4r2", "levels per octave belong to the log grid, not to 'float'"),
        ("float4e0", "float4 takes 1…3 exponent bits, got 0"),
        ("float4e4", "float4 takes 1…3 exponent bits, got 4"),
        ("float8e6", "float8 takes 1…5 exponent bits, got 6"),
        ("log4r0", "log grids take 1…16 levels per octave, got 0"),
        ("log4r17", "log grids take 1…16 levels per octave, got 17"),
        ("log4r00010000", "log grids take 1…16 levels per octave, got 10000"),  # not its first digits
        ("log4r" + "1" * 5000, "log grids take 1…16 levels per octave, got 1111111111"),
    ],
)
def test_texts_that_are_no_scheme_are_answered(text, message):
    with pytest.raises(SchemeError) as caught:
        Scheme.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [None, 4, b"nf4", ["nf4"], NF4], ids=repr)
def test_parse_takes_a_text(text):
    with pytest.raises(SchemeError, match=f"a scheme is a text such as 'nf4:g64', got {type(text).__name__}"):
        Scheme.parse(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": None}, "unknown grid None: known: "),
        ({"grid": 4}, "unknown grid 4: known: "),
        ({"grid": ["nf"]}, "unknown grid ['nf']: did you mean 'nf'?"),
        ({"bits": 4.0}, "grid 'nf' is defined for 1…8 bits, got 4.0"),
        ({"bits": True}, "grid 'nf' is defined for 1…8 bits, got True"),
        ({"bits": "4"}, "grid 'nf' is defined for 1…8 bits, got '4'"),
        ({"group_size": 64.0}, "group_size must be -1 or a multiple of 16 in 16…1024, got 64.0"),
        ({"group_size": True}, "group_size must be"),
        ({"group_size": None}, "group_size must be"),
        ({"symmetric": 0}, "symmetric must be true or false, got 0"),
        ({"symmetric": None}, "symmetric must be true or false, got None"),
        ({"scale_search": "max"}, "scale_search must be absmax or mse, got 'max'"),
        ({"scale_search": ["mse"]}, "scale_search must be absmax or mse, got ['mse']"),
        ({"scale_dtype": "fp8"}, "scale_dtype must be fp16, e4m3 or dq8, got 'fp8'"),
        ({"exponent_bits": 2}, "exponent bits belong to the float grid, not to 'nf'"),
        ({"per_octave": 2}, "levels per octave belong to the log grid, not to 'nf'"),
        ({"grid": "float", "exponent_bits": 2.0}, "float4 takes 1…3 exponent bits, got 2.0"),
        ({"grid": "float", "exponent_bits": True}, "float4 takes 1…3 exponent bits, got True"),
        ({"grid": "log", "per_octave": "2"}, "log grids take 1…16 levels per octave, got '2'"),
        ({"grid": "none"}, "scheme '16' takes no options"),
        ({"grid": "none", "bits": 16.0}, "scheme '16' takes no options"),
        ({"grid": "none", "bits": 16, "group_size": 128}, "scheme '16' takes no options"),
        ({"grid": "none", "bits": 16, "symmetric": 1}, "scheme '16' takes no options"),
        ({"grid": "none", "bits": 16, "methods": ("gptq",)}, "scheme '16' takes no options"),
        ({"methods": "gptq"}, "methods are a list such as ['imp', 'gptq'], got 'gptq'"),
        ({"methods": ["gtpq"]}, "unknown method 'gtpq': did you mean 'gptq'?"),
        ({"methods": [7]}, "unknown method 7: known: "),
        ({"methods": ["gptq", "gptq"]}, "method 'gptq' is given twice"),
        ({"methods": ["gptq", "imp"]}, "expected the methods in the order '+imp+gptq', got '+gptq+imp'"),
        ({"methods": ["actorder"]}, "expected '+actorder+gptq'"),
    ],
)
def test_values_that_are_no_scheme_are_answered_from_python_and_from_json(values, message):
    values = {"grid": "nf", "bits": 4} | values
    for make in (lambda: Scheme(**values), lambda: Scheme.from_json({"version": 1} | values)):
        with pytest.raises(SchemeError) as caught:
            make()
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a scheme is a JSON object, got list"),
        ("nf4", "a scheme is a JSON object, got str"),
        (None, "a scheme is a JSON object, got NoneType"),
        ({"grid": "nf", "bits": 4}, "scheme version None is not readable here; expected 1"),
        ({"version": 2, "grid": "nf", "bits": 4}, "scheme version 2 is not readable here; expected 1"),
        ({"version": True, "grid": "nf", "bits": 4}, "scheme version True is not readable"),
        ({"version": 1.0, "grid": "nf", "bits": 4}, "scheme version 1.0 is not readable"),
        ({"version": 1, "grid": "nf"}, "scheme lacks 'bits'"),
        ({"version": 1, "bits": 4}, "scheme lacks 'grid'"),
        ({"version": 1, "grid": "nf", "bits": 4, "groupsize": 64}, "unknown scheme key 'groupsize': did you mean 'group_size'?"),
        ({"version": 1, "grid": "nf", "bits": 4, 7: 64}, "unknown scheme key 7: known: "),
    ],
)
def test_json_that_is_no_scheme_is_answered(value, message):
    with pytest.raises(SchemeError) as caught:
        Scheme.from_json(value)
    assert message in str(caught.value)


def test_json_names_every_field():
    assert NF4.to_json() == {
        "version": 1,
        "grid": "nf",
        "bits": 4,
        "exponent_bits": None,
        "per_octave": None,
        "group_size": 64,
        "symmetric": True,
        "scale_search": "absmax",
        "scale_dtype": "fp16",
        "methods": [],
        "dims": 1,
        "parts": [],
    }
    assert set(NF4.to_json()) == {"version", *(field.name for field in fields(Scheme))}
