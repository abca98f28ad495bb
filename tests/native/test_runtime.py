import os
import subprocess
import sys

import pytest

from kbit import native
from kbit.core.errors import SchemeError


def test_scalar_is_always_there() -> None:
    assert native.available_isas()[-1] == "scalar"
    assert native.isa() in native.available_isas()


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(SchemeError, match="'avx9' cannot run here"):
        native.set_isa("avx9")


def test_threads_are_bounded() -> None:
    native.set_threads(3)
    assert native.threads() == 3
    native.set_threads(0)
    assert native.threads() >= 1
    with pytest.raises(SchemeError, match="0…256"):
        native.set_threads(-1)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("KBIT_ISA", "scalar", "scalar"), ("KBIT_ISA", "sse9", "cannot run here"), ("KBIT_THREADS", "0", "KBIT_THREADS must be 1…256")],
)
def test_environment_is_read_at_import(variable: str, value: str, expected: str) -> None:
    code = "import kbit.native as n; print(n.isa())"
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, variable: value}, capture_output=True, text=True, check=False)
    assert expected in (run.stdout if run.returncode == 0 else run.stderr)


def test_roofs_are_positive() -> None:
    assert native.memory_roof(1, size_bytes=1 << 20) > 0
    assert native.int8_roof(1) > 0


FORK = """
import os, warnings
import numpy as np
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import PreparedMatrix
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads: the case under test
weights = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
matrix = PreparedMatrix(encode(weights, Scheme.parse("nf4:g64"), name="w"))
x = np.ones((2, 512), np.float32)
expected = matrix.matmul(x, threads=2).tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if matrix.matmul(x, threads=2).tobytes() == expected else 1)
print("child", os.waitpid(child, 0)[1])
"""


def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    run = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "child 0\n", run.stderr
