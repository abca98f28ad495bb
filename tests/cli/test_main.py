"""The command as a process: start-up without torch, exit codes, interrupts, a reader that leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: what a process does where torch and transformers are not installed
WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate", "matplotlib", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def _run(*arguments: object, before: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport sys\nsys.argv[0] = 'kbit'\nfrom kbit.cli.main import main\nmain()"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("verb", ["--help", "--version", "doctor", "show", "verify"])
def test_works_without_torch(verb: str, packed_model: Path) -> None:
    arguments = [verb, packed_model] if verb in ("show", "verify") else [verb]
    found = _run(*arguments, before=WITHOUT_TORCH)
    assert found.returncode == 0, found.stderr
    assert found.stdout


@pytest.mark.parametrize("verb", ["run", "bench", "eval", "quantize", "decode", "demo"])
def test_names_the_extra_that_is_missing(verb: str, packed_model: Path, tmp_path: Path) -> None:
    arguments = {
        "run": [packed_model, "Once"],
        "bench": [packed_model],
        "eval": [packed_model],
        "quantize": [packed_model, "--scheme", "nf4", "-o", tmp_path / "out"],
        "decode": [packed_model, "-o", tmp_path / "out"],
        "demo": ["-o", tmp_path / "out"],
    }
    found = _run(verb, *arguments[verb], before=WITHOUT_TORCH)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr == "kbit: torch is needed here and is not installed: pip install 'kbit[torch]'\n"


def test_import_needs_no_torch() -> None:
    code = WITHOUT_TORCH + "\nimport kbit\nprint(kbit.Scheme.parse('nf4'))\ntry: kbit.load\nexcept ImportError as error: print(error)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == ["nf4:g64", "torch is needed here and is not installed: pip install 'kbit[torch]'"]


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, kbit.cli.main; print([name for name in ('numpy', 'torch', 'transformers', 'matplotlib') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_module_and_bad_usage() -> None:
    found = subprocess.run([sys.executable, "-m", "kbit", "frobnicate"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "frobnicate" in found.stderr


def test_help_names_every_verb(kbit: Callable) -> None:
    out = kbit("--help").out
    for verb in ("demo", "quantize", "eval", "bench", "run", "show", "decode", "verify", "doctor"):
        assert f"  {verb} " in out


def test_interrupted_quietly(packed_model: Path) -> None:
    raise_it = "import kbit.store.folder\ndef interrupted(*_, **__): raise KeyboardInterrupt\nkbit.store.folder.open_model = interrupted"
    found = _run("show", packed_model, before=raise_it)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_interrupted_by_the_signal(packed_model: Path) -> None:
    wait = (
        # a process started in the background of a script ignores the signal until it says otherwise
        "import kbit.store.folder, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def waiting(*_, **__):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "kbit.store.folder.open_model = waiting\nfrom kbit.cli.main import main\nmain()"
    )
    command = [sys.executable, "-c", wait, "show", str(packed_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error(packed_model: Path) -> None:
    command = [sys.executable, "-m", "kbit", "show", str(packed_model)]
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads from the start
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, "")


def test_a_terminal_of_another_encoding_is_no_error(packed_model: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "kbit", "show", str(packed_model)]
    found = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert found.returncode == 0
    assert found.stdout.isascii()
