"""No code that was compiled for a newer processor may stand in for common code.

An inline function of a shared header, compiled with AVX flags and not inlined, is a weak symbol: the linker keeps one of all its
copies, and an older processor would run it wherever the function is called (SIGILL).
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vbmi", "-mavx512vnni", "-mavx512bitalg", "-DKBIT_AMX"]
MERGED = re.compile(r"^[0-9a-f]* +W (\S+)$", re.MULTILINE)  # functions; data carries no instructions

SOURCES = [(path, flags) for isa, flags in (("avx2", AVX2), ("avx512", AVX512)) for path in sorted((CSRC / isa).glob("*.cc"))]


def merged_symbols(source: Path, flags: list[str], folder: Path) -> list[str]:
    """Mangled names in the object of `source` that the linker may merge with another object's; nothing is inlined, to find all."""
    target = folder / "object.o"
    options = ["-std=c++20", "-O0", "-fno-inline", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
    subprocess.run(["g++", *options, *flags, "-c", str(source), "-o", str(target)], check=True)
    return MERGED.findall(subprocess.run(["nm", str(target)], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 instruction sets")
@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
@pytest.mark.parametrize(("source", "flags"), SOURCES, ids=[f"{path.parent.name}/{path.stem}" for path, _ in SOURCES])
def test_no_symbol_is_shared_with_common_code(source: Path, flags: list[str], tmp_path: Path) -> None:
    names = merged_symbols(source, flags, tmp_path)
    own = re.compile(rf"_Z+N?K?4kbit{len(source.parent.name)}{source.parent.name}")
    assert [name for name in names if not own.match(name)] == []
