"""Run as a program by test_files: breaks a write at every single system call, and looks at what is left.

    python fault_driver.py FOLDER file|folder|folder-without-exchange kill|EIO|ENOSPC|EROFS

A child process for each call N dies there (SIGKILL), or has that call fail. Prints how often the older and the newer one were found.
"""

import errno
import json
import os
import signal
import sys
from collections import Counter
from itertools import count
from pathlib import Path

from kbit.core import temporary
from kbit.core.errors import StorageError
from kbit.core.files import atomic_directory, atomic_write

HARMLESS = {"fspath", "getpid", "urandom"}
REFUSED = 3


def write(folder: Path, content: str) -> None:
    """Replaces FOLDER/target by a file or folder with `content`."""
    if "file" in sys.argv[2]:
        with atomic_write(folder / "target") as file:
            file.write(content.encode())
        return
    with atomic_directory(folder / "target", overwrite=True) as part:
        (part / "sub").mkdir()
        (part / "sub" / "data").write_text(content)
        (part / "more").write_text(content)


def read(folder: Path) -> str:
    target = folder / "target"
    if target.is_file():
        return target.read_text()
    names = sorted(str(name.relative_to(target)) for name in target.rglob("*"))
    assert names == ["more", "sub", "sub/data"], names
    assert (target / "more").read_text() == (target / "sub" / "data").read_text()
    return (target / "more").read_text()


def fail_at(number: int, fault: str) -> None:
    """Arms this process: its call `number` to the system fails, or is its last."""
    calls = count()

    def watch(frame: object, event: str, function: object) -> None:
        if event != "c_call" or getattr(function, "__module__", "") not in ("posix", "fcntl") or function.__name__ in HARMLESS:
            return
        if next(calls) == number:
            sys.setprofile(None)
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))

    sys.setprofile(watch)


def child(folder: Path, number: int, fault: str) -> int:
    fail_at(number, fault)
    try:
        write(folder, "new")
    except StorageError as raised:
        error = raised
    else:
        error = None
    sys.setprofile(None)
    if error is not None:
        assert error.errno == getattr(errno, fault), error
        assert str(folder) in str(error), error
        return REFUSED
    assert read(folder) == "new"
    return 0


def run_child(folder: Path, number: int, fault: str) -> bool:
    """True if the write went through: the call was never reached, or failed in cleaning up, which is for the next writer then."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = child(folder, number, fault)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert (os.WIFSIGNALED(status) and fault == "kill") or os.WEXITSTATUS(status) in (0, REFUSED), f"call {number}: status {status}"
    return status == 0


def check(folder: Path, number: int) -> str:
    """What stands at the target; then that the next writer, though it gives up, finds it there and no litter."""
    if (folder / "target").exists():
        found = read(folder)
    else:
        assert "without-exchange" in sys.argv[2], f"call {number}: the target is lost"
        assert (folder / ".target.kbit-old").is_dir(), f"call {number}: the older folder is lost"
        found = "put aside"
    try:
        if "file" in sys.argv[2]:
            with atomic_write(folder / "target"):
                raise KeyboardInterrupt
        with atomic_directory(folder / "target", overwrite=True):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert read(folder) == ("old" if found == "put aside" else found)
    assert [entry.name for entry in folder.iterdir()] == ["target"], f"call {number}: {list(folder.iterdir())}"
    return found


def main() -> None:
    folder, fault = Path(sys.argv[1]), sys.argv[3]
    os.fsync = os.fstat  # a call that counts and can fail like the other, without the disk's slowness
    if "without-exchange" in sys.argv[2]:
        temporary.exchange = lambda first, second: False
    found: list[str] = []
    through = 0  # writes in a row that went through: after ten, the last call lies behind
    while through < 10:
        write(folder, "old")
        through = through + 1 if run_child(folder, len(found), fault) else 0
        found.append(check(folder, len(found)))
    print(json.dumps(dict(Counter(found))))


if __name__ == "__main__":
    main()
