import errno
import inspect
import pickle
import re

import pytest

from kbit.core import errors
from kbit.core.errors import FormatError, KbitError, LimitError, MissingExtraError, StorageError

TREE = re.findall(r"^ *[│ ]*[├└]── (\w+)\s.*?(?:\(also (\w+)\))?$", errors.__doc__, re.MULTILINE)
CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_the_tree_in_the_docstring_is_the_tree():
    assert {name for name, _ in TREE} | {"KbitError"} == set(errors.__all__)
    for name, also in TREE:
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [("FormatError" if name == "LimitError" else "KbitError"), *([also] if also else [])]


def test_all_errors_are_public_and_of_one_family():
    defined = [name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__]
    assert sorted(defined) == errors.__all__
    assert all(issubclass(error, KbitError) and error.__doc__ for error in CLASSES)
    assert not issubclass(KbitError, (ValueError, OSError))


@pytest.mark.parametrize("error", [error for error in CLASSES if error is not MissingExtraError])
def test_a_message_comes_out_as_it_went_in(error):
    assert str(error("weight: expected 3, got 4")) == "weight: expected 3, got 4"


def test_a_limit_is_caught_as_a_format_error():
    with pytest.raises(FormatError):
        raise LimitError("too large")


def test_storage_errors_carry_errno_and_file():
    error = StorageError(errno.ENOSPC, "cannot write: No space left on device", "model.safetensors")
    assert (error.errno, error.filename) == (errno.ENOSPC, "model.safetensors")
    assert type(error) is StorageError  # OSError itself would turn into a subclass by errno


def test_a_missing_extra_says_what_to_type():
    error = MissingExtraError("torch", "torch")
    assert str(error) == "torch is needed here and is not installed: pip install 'kbit[torch]'"
    assert (error.name, error.extra) == ("torch", "torch")
    with pytest.raises(ImportError):
        raise error


@pytest.mark.parametrize(
    "error", [MissingExtraError("transformers", "hf"), StorageError(5, "cannot read", "f"), *(error("m") for error in CLASSES[:1])]
)
def test_errors_come_back_whole_from_a_worker_process(error):
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
    assert getattr(back, "filename", None) == getattr(error, "filename", None)
    assert getattr(back, "name", None) == getattr(error, "name", None)
