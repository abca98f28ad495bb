"""The C++ tests, built by scripts/test-native and run one by one: kernels, encoder and packing below any Python."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from kbit import native

ROOT = Path(__file__).parents[2]
TESTS = sorted(path.stem for path in (ROOT / "csrc" / "tests").glob("*_test.cc"))
#: as scripts/test-native looks for them: the system's programs first, then those of the environment
PATH = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
COMPILERS = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]


def missing() -> list[str]:
    """What a build needs and this machine lacks."""
    tools = [tool for tool in ("cmake", "ninja", "nm") if shutil.which(tool, path=PATH) is None]
    return tools if any(shutil.which(name, path=PATH) for name in COMPILERS) else [*tools, "a C++ compiler"]


@pytest.fixture(scope="module")
def built() -> Path:
    if lacking := missing():
        pytest.skip(f"the C++ tests need {', '.join(lacking)}: pip install cmake ninja, apt-get install g++")
    run = subprocess.run(
        [ROOT / "scripts" / "test-native", "--only-build"], env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return ROOT / "build" / "test-native" / "tests"


@cache
def output_of(test: Path) -> str:
    """What an executable prints; it must end well, and have tested something."""
    run = subprocess.run([test], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{test.name} ended with {run.returncode}:\n{run.stdout}{run.stderr}"
    passed, _, rest = run.stdout.splitlines()[-1].partition(" passed, ")
    assert int(passed) > 100, run.stdout
    assert rest == "0 failed"
    return run.stdout


@pytest.mark.parametrize("name", TESTS)
def test_cpp(built: Path, name: str) -> None:
    output_of(built / name)


def test_every_instruction_set_of_this_machine_is_covered(built: Path) -> None:
    assert f"instruction sets: {' '.join(native.available_isas())}\n" in output_of(built / "kernels_test")


def test_the_build_makes_every_test(built: Path) -> None:
    assert {path.name for path in built.glob("*_test")} == set(TESTS)
    assert {"encode_test", "kernels_test", "packing_test"} <= set(TESTS)
