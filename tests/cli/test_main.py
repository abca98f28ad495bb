"""The command as a process: start-up, exit codes, interrupts, a reader that leaves. Without torch: tests/test_torch_free.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def _run(*arguments: object, before: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport sys\nsys.argv[0] = 'kbit'\nfrom kbit.cli.main import main\nmain()"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)  # type: ignore[call-overload]


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
