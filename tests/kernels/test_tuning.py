"""The file of measured choices: where it lies, what it keeps, and that a bad one is left aside with a warning."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import FormatError, LimitError, StorageError
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import PreparedMatrix
from kbit.kernels.tuning import (
    MAX_BYTES,
    Choice,
    Machine,
    Tuning,
    active_tuning,
    forget_tunings,
    machine,
    read_tunings,
    store_tuning,
    tuning_path,
)
from kbit.kernels.variants import Kind

KIND = Kind(2, True, 64, 2048, 2048)
CHOICES = (Choice(KIND, "one", "lookup", 1.07), Choice(Kind(4, False, 64, 64, 32), "few", "automatic", 1.0))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tuning of a test lies; nothing is there yet."""
    place = tmp_path / "cache" / "tuning.json"
    monkeypatch.setenv("KBIT_TUNING", str(place))
    forget_tunings()
    return place


def tuning(isa: str = "avx512", **changes: Any) -> Tuning:
    return Tuning(replace(machine(isa), **changes), (1, 2), CHOICES)


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"):
        store_tuning(tmp_path / "file" / "tuning.json", tuning())


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KBIT_TUNING")
    monkeypatch.setenv("HOME", str(tmp_path))
    for cache in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert tuning_path() == tmp_path / ".cache" / "kbit" / "tuning.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert tuning_path() == tmp_path / "elsewhere" / "kbit" / "tuning.json"
    monkeypatch.setattr(Path, "home", nobody)
    assert tuning_path() == tmp_path / "elsewhere" / "kbit" / "tuning.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning_path() is None
    monkeypatch.setenv("KBIT_TUNING", "here.json")
    assert tuning_path() == Path("here.json")
    monkeypatch.setenv("KBIT_TUNING", "")
    assert tuning_path() is None
    assert active_tuning("avx512") is None


def test_this_machine_has_a_name() -> None:
    here = machine("avx2")
    assert (here.isa, bool(here.processor), bool(here.kbit)) == ("avx2", True, True)


def test_what_is_stored_is_read(path: Path) -> None:
    store_tuning(path, tuning())
    assert read_tunings(path) == [tuning()]
    assert active_tuning("avx512") == tuning()


def test_machines_keep_their_own(path: Path) -> None:
    others = [tuning("avx2"), tuning(processor="another"), tuning(kbit="0.0.1")]
    for each in (*others, tuning(), replace(tuning(), choices=())):
        store_tuning(path, each)
    assert read_tunings(path) == [*others, replace(tuning(), choices=())]
    assert active_tuning("avx2") == tuning("avx2")


def test_the_nearest_shape_answers() -> None:
    wide = Choice(replace(KIND, cols=8192), "one", "serial", 1.2)
    many = Tuning(Machine("p", "i", "v"), (1,), (*CHOICES, wide))

    def variant(rows: int, cols: int, **changes: Any) -> str | None:
        return many.variant(replace(KIND, rows=rows, cols=cols, **changes), "one")

    assert variant(2048, 2048) == "lookup"
    assert variant(1500, 3000) == "lookup"
    assert variant(2048, 5000) == "serial"
    assert variant(4096, 2048) is None
    assert variant(2048, 2048, bits=3) is variant(2048, 2048, straight=False) is variant(2048, 2048, group=128) is None
    assert many.variant(KIND, "few") is None


def test_nothing_stored_says_nothing(path: Path) -> None:
    assert active_tuning("avx512") is None


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    value = {"format": "kbit-tuning", "version": 1, "machines": [tuning().to_json()]}
    change(value)
    return json.dumps(value)


def choice(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["machines"][0]["choices"][0].update(changes)


DAMAGED = {
    "empty": ("", "expected JSON"),
    "torn": (changed(lambda value: None)[:-30], "expected JSON"),
    "twice": ('{"format": 1, "format": 2}', "is there twice"),
    "list": ("[]", "expected a file of 'kbit-tuning'"),
    "of another kind": (changed(lambda value: value.update(format="other")), "expected a file of 'kbit-tuning'"),
    "of tomorrow": (changed(lambda value: value.update(version=2)), "expected version 1, got 2"),
    "no list": (changed(lambda value: value.update(machines={})), "expected a list of at most 100 machines"),
    "too many": (changed(lambda value: value.update(machines=[{}] * 101)), "expected a list of at most 100 machines"),
    "no object": (changed(lambda value: value.update(machines=[7])), r"machines\[0\]: expected an object"),
    "one field more": (changed(lambda value: value["machines"][0].update(more=1)), r"machines\[0\]: expected an object of processor"),
    "no text": (changed(lambda value: value["machines"][0].update(isa=3)), r"machines\[0\].isa: expected str, got '3'"),
    "no threads": (changed(lambda value: value["machines"][0].update(threads=[0])), "expected numbers of threads"),
    "threads that are true": (changed(lambda value: value["machines"][0].update(threads=[True])), "expected numbers of threads"),
    "choices without end": (changed(lambda value: value["machines"][0].update(choices=[0] * 10_001)), "expected at most 10000"),
    "true bits": (changed(choice(bits=True)), r"choices\[0\].bits: expected int"),
    "nine bits": (changed(choice(bits=9)), "expected 1…8 bits, got 9"),
    "no rows": (changed(choice(rows=0)), "expected a group and sides of at least 1, got 64 and 0×2048"),
    "many tokens": (changed(choice(tokens="many")), "expected tokens of one, few, got 'many'"),
    "an unknown variant": (changed(choice(variant="magic")), "expected one of automatic, lookup, integer, serial, got 'magic'"),
    "an impossible variant": (changed(choice(variant="serial", bits=5)), "expected one of automatic, lookup, integer, got 'serial'"),
    "no gain": (changed(choice(gain="large")), r"choices\[0\].gain: expected float"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_typed_error_and_a_warning(path: Path, name: str) -> None:
    text, message = DAMAGED[name]
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read_tunings(path)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        assert active_tuning("avx512") is None
    assert str(path) in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert active_tuning("avx512") is None, "said once"


def test_other_errors_are_warnings_too(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(FormatError, match="expected a regular file, got a folder"):
        read_tunings(path)
    with pytest.warns(RuntimeWarning, match="got a folder"):
        assert active_tuning("avx512") is None
    with pytest.raises(StorageError):
        read_tunings(path / "nothing")
    large = path / "large"
    large.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(LimitError, match="expected at most"):
        read_tunings(large)


def test_a_file_of_other_machines_is_left_aside(path: Path) -> None:
    store_tuning(path, tuning(processor="another"))
    with pytest.warns(RuntimeWarning, match=r"expected a measurement of this machine .*, got 1 of others: another, avx512"):
        assert active_tuning("avx512") is None


def test_a_damaged_file_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")
    store_tuning(path, tuning())
    assert read_tunings(path) == [tuning()]


def test_matrices_take_their_choices_when_they_are_made(path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    quantized = encode(weights, Scheme.parse("int2:g64"), name="test")
    x = weights[:1]
    plain = PreparedMatrix(quantized)
    chosen = Choice(Kind(2, True, 64, 64, 128), "one", "serial", 1.1), Choice(Kind(2, True, 64, 64, 128), "few", "lookup", 1.1)
    store_tuning(path, Tuning(machine(native.isa()), (1,), chosen))
    tuned = PreparedMatrix(quantized)
    assert (tuned.variant("one"), tuned.variant("few")) == ("serial", "lookup")
    assert tuned.matmul(x).tobytes() == plain.matmul(x).tobytes()


def test_a_bad_file_does_not_keep_a_matrix_from_running(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("nonsense", encoding="utf-8")
    quantized = encode(np.ones((16, 32), np.float32), Scheme.parse("int2:g32"), name="test")
    with pytest.warns(RuntimeWarning, match="stored tuning ignored"):
        assert PreparedMatrix(quantized).matmul(np.ones((1, 32), np.float32)).shape == (1, 16)
