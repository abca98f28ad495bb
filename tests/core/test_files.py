import errno
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kbit.core import temporary
from kbit.core.errors import FormatError, LimitError, StorageError
from kbit.core.files import atomic_directory, atomic_write, lock, open_regular, read_json, resolve_inside, storage_errors, write_json


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def child(code, *arguments, **options):
    """Another Python process that sees this kbit."""
    environment = {**os.environ, "PYTHONPATH": str(Path(temporary.__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *code, *map(str, arguments)], env=environment, text=True, stdout=subprocess.PIPE, **options)


# ---- every system call


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        *(("file", fault) for fault in ("kill", "EIO", "ENOSPC", "EROFS")),
        *((target, fault) for target in ("folder", "folder-without-exchange") for fault in ("kill", "EIO")),
    ],
)
def test_broken_at_every_system_call_leaves_the_old_or_the_new_and_no_litter(tmp_path, target, fault):
    with child([Path(__file__).with_name("fault_driver.py")], tmp_path, target, fault, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert found["old"] > 5
    assert found["new"] > 10
    assert found.get("put aside", 0) == (1 if (target, fault) == ("folder-without-exchange", "kill") else 0)


# ---- atomic_write


def test_a_new_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert (names(tmp_path), path.read_bytes()) == (["file"], b"new")


def test_mode_is_that_of_the_older_file_or_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        for mode in (0o640, 0o604):
            with atomic_write(tmp_path / "file") as file:
                file.write(b"x")
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
            (tmp_path / "file").chmod(0o604)
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), KeyboardInterrupt(), FormatError("stop"), TimeoutError("net"), ConnectionError("net")]
)
def test_an_error_in_the_block_passes_and_leaves_the_old_file(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "file") as file:  # noqa: PT012 (the block is what is tested)
        file.write(b"new")
        raise error
    assert caught.value is error
    assert (names(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"old")


def test_a_real_short_disk_becomes_a_storage_error_that_names_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the kernel refuses the 4097th byte (Python ignores SIGXFSZ)
    try:
        with pytest.raises(StorageError, match="cannot write: File too large") as caught, atomic_write(tmp_path / "file") as file:
            file.write(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "file"))
    assert (names(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"old")


def test_a_block_may_close_its_file(tmp_path):
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
        file.close()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_symlink_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "blob").write_bytes(b"blob")
    (tmp_path / "link").symlink_to("blob")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert not (tmp_path / "link").is_symlink()
    assert ((tmp_path / "link").read_bytes(), (tmp_path / "blob").read_bytes()) == (b"new", b"blob")


def test_what_is_no_file_is_not_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        with pytest.raises(StorageError, match="expected a regular file or nothing to write over"), atomic_write(tmp_path / name):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["fifo", "folder"]


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(StorageError, match=r"cannot write: No such file or directory: .*missing"),
        atomic_write(tmp_path / "missing" / "file"),
    ):
        pytest.fail("the block must not run")


def test_names_of_255_bytes_can_be_written(tmp_path):
    for name in ("n" * 255, "ä" * 127):
        with atomic_write(tmp_path / name) as file:
            file.write(b"x")
    assert names(tmp_path) == ["n" * 255, "ä" * 127]


# ---- litter of the dead, and work of the living


def test_litter_of_dead_writers_is_swept_and_work_of_living_ones_is_not(tmp_path):
    dead = tmp_path / ".file.0123456789ab.kbit-tmp"
    dead.write_bytes(b"half")
    (tmp_path / ".file.0123456789ac.kbit-tmp").mkdir()
    bystanders = [".file.0123456789ab.tmp", ".other.0123456789ab.kbit-tmp", ".file.short.kbit-tmp"]
    for name in bystanders:
        (tmp_path / name).write_bytes(b"not ours")
    with atomic_write(tmp_path / "file") as first:
        first.write(b"first")
        with atomic_write(tmp_path / "file") as second:
            second.write(b"second")
            assert (
                len([name for name in names(tmp_path) if name.startswith(".file.") and name.endswith(".kbit-tmp")]) == 3
            )  # short is not ours
        assert (tmp_path / "file").read_bytes() == b"second"
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == sorted([*bystanders, "file"])


# ---- atomic_directory


def fill(path, content, **options):
    with atomic_directory(path, **options) as part:
        (part / "data").write_text(content)


def test_a_new_folder_appears_whole(tmp_path):
    with atomic_directory(tmp_path / "out") as part:
        (part / "data").write_text("new")
        assert names(tmp_path) == [part.name]
    assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["data"])


def test_an_empty_folder_may_be_filled_and_a_full_one_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "first")
    with pytest.raises(StorageError, match="the folder is not empty and stays as it is"), atomic_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    fill(tmp_path / "out", "second", overwrite=True)
    assert (names(tmp_path), (tmp_path / "out" / "data").read_text()) == (["out"], "second")


def test_a_folder_filled_meanwhile_is_not_lost(tmp_path):
    with pytest.raises(StorageError, match="is not empty"), atomic_directory(tmp_path / "out") as part:  # noqa: PT012
        (part / "data").write_text("mine")
        fill(tmp_path / "out", "theirs")
    assert (names(tmp_path), (tmp_path / "out" / "data").read_text()) == (["out"], "theirs")


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "out", overwrite=True) as part:  # noqa: PT012
        (part / "data").write_text("new")
        raise ZeroDivisionError
    assert (names(tmp_path), (tmp_path / "out" / "data").read_text()) == (["out"], "old")


def test_a_file_or_the_root_is_no_place_for_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in ((tmp_path / "file", "expected a folder or nothing to write over"), ("/", "expected a folder below the root")):
        with pytest.raises(StorageError, match=message), atomic_directory(path, overwrite=True):
            pytest.fail("the block must not run")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "data").read_text() == "new"


def test_links_and_fifos_inside_do_not_stop_the_sync(tmp_path):
    with atomic_directory(tmp_path / "out") as part:
        (part / "dangling").symlink_to("nowhere")
        os.mkfifo(part / "fifo")
    assert names(tmp_path / "out") == ["dangling", "fifo"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_names_that_may_not_last_are_changed_back(tmp_path, monkeypatch, exchanges):
    fill(tmp_path / "out", "old")
    sync = temporary.sync_directory

    def fail_for_the_parent(path):
        if path == tmp_path.resolve():
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(temporary, "sync_directory", fail_for_the_parent)
    if not exchanges:
        monkeypatch.setattr(temporary, "exchange", lambda first, second: False)
    with pytest.raises(StorageError, match="cannot write the folder: Input/output error"):
        fill(tmp_path / "out", "new", overwrite=True)
    assert (names(tmp_path), (tmp_path / "out" / "data").read_text()) == (["out"], "old")


def test_exchange_says_when_it_cannot(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No such file"):
        temporary.exchange(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(temporary.ctypes, "CDLL", lambda *_, **__: object())
    assert temporary.exchange(tmp_path / "a", tmp_path / "b") is False


# ---- JSON files


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, True, None], "a": {"ä": "text"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_bytes().startswith(b'{\n  "b": [\n')
    write_json(tmp_path / "x.json", value, indent=None, sort_keys=True)
    assert (tmp_path / "x.json").read_text() == '{"a": {"ä": "text"}, "b": [1, 2.5, true, null]}\n'


def test_what_json_cannot_hold_is_not_written_and_the_file_is_named(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    for value in (float("nan"), {1: 2}, b"bytes", "\ud800"):
        with pytest.raises(FormatError, match=r"x\.json: expected"):
            write_json(tmp_path / "x.json", {"new": [value]})
    assert read_json(tmp_path / "x.json") == {"old": 1}


def test_json_that_is_too_large_missing_or_no_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "x.json", max_bytes=9) == [1, 2, 3]
    with pytest.raises(LimitError, match=r"x\.json: expected at most 8 bytes of JSON, got more"):
        read_json(tmp_path / "x.json", max_bytes=8)
    with pytest.raises(StorageError, match=r"cannot open: No such file or directory: .*y\.json"):
        read_json(tmp_path / "y.json")
    with pytest.raises(FormatError, match="expected a regular file, got a folder"):
        read_json(tmp_path)
    (tmp_path / "x.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(FormatError, match=r"x\.json: expected JSON: key 'a' is there twice"):
        read_json(tmp_path / "x.json")


# ---- lock


def test_a_second_writer_is_refused_by_name(tmp_path):
    with lock(tmp_path / "lock"):
        with pytest.raises(StorageError, match=f"held by process {os.getpid()}: one writer at a time"), lock(tmp_path / "lock"):
            pytest.fail("the block must not run")
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert names(tmp_path) == []
    with lock(tmp_path / "lock"):
        pass


def test_a_lock_is_let_go_when_the_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with lock(tmp_path / "lock"):
        pass


def test_a_lock_of_a_killed_process_does_not_block(tmp_path):
    code = "import sys, time; from kbit.core.files import lock\nwith lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    with child(["-c", code], tmp_path / "lock") as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"held by process {process.pid}:"), lock(tmp_path / "lock"):
            pytest.fail("the block must not run")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "lock").exists()  # stale, with the number of a process that may be anybody's now
    with lock(tmp_path / "lock"):
        pass


def test_one_of_many_that_race_has_the_lock_at_a_time(tmp_path):
    code = """
import os, sys
from kbit.core.errors import StorageError
from kbit.core.files import lock
won = 0
while won < 40:
    try:
        with lock(sys.argv[1] + "/lock"):
            os.close(os.open(sys.argv[1] + "/inside", os.O_CREAT | os.O_EXCL))  # fails if another is inside
            os.unlink(sys.argv[1] + "/inside")
            won += 1
    except StorageError as error:
        assert "held by" in str(error), error
print(won)
"""
    processes = [child(["-c", code], tmp_path) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["40\n"] * 3
    assert names(tmp_path) == []


def test_a_lock_file_that_its_last_holder_removed_meanwhile_is_made_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def flock_after_removal(descriptor, operation):
        if not calls:
            (tmp_path / "lock").unlink()  # what the last holder does between our open and our flock
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with lock(tmp_path / "lock"):
        assert len(calls) == 2
        with pytest.raises(StorageError, match="held by process"), lock(tmp_path / "lock"):
            pytest.fail("the block must not run")


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "link").symlink_to("elsewhere")
    for path in (tmp_path / "missing" / "lock", tmp_path, tmp_path / "link"):
        with pytest.raises(StorageError, match="cannot lock: "), lock(path):
            pytest.fail("the block must not run")


# ---- files that others made


def test_regular_files_are_opened_and_others_refused_without_blocking(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path has room for 107 bytes
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"data"
    for path, kind in (
        (tmp_path, "a folder"),
        ("fifo", "a FIFO"),
        ("to-fifo", "a FIFO"),
        ("socket", "a socket"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(FormatError, match=f"expected a regular file, got {kind}"):
            open_regular(tmp_path / path)
    with pytest.raises(FormatError, match="expected a regular file, got a symlink"):
        open_regular(tmp_path / "link", follow_symlinks=False)
    with pytest.raises(StorageError, match="cannot open: No such file"):
        open_regular(tmp_path / "nothing")


def test_a_file_exchanged_for_a_fifo_after_the_first_look_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    regular = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: regular)
    before = names(Path("/proc/self/fd"))
    with pytest.raises(FormatError, match="got a FIFO"):
        open_regular(tmp_path / "fifo")
    assert names(Path("/proc/self/fd")) == before


def test_names_inside_resolve(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("sub/file")
    for name in ("sub/file", "link", "./sub/file"):
        assert resolve_inside(tmp_path, name) == (tmp_path / "sub" / "file").resolve()
    assert resolve_inside(tmp_path, "..names..with..dots") == tmp_path.resolve() / "..names..with..dots"


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "..", "a//b", "a/", "a\0b", "a\\b", "\ud800", None, 3, b"x", "x/" * 10**6]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(FormatError, match="expected the relative name of a file inside") as caught:
        resolve_inside(tmp_path, name)
    assert len(str(caught.value)) < 1000


def test_symlinks_that_lead_out_are_refused_unless_told_otherwise(tmp_path):
    for folder in ("blobs", "snapshots", "snapshots/1"):
        (tmp_path / folder).mkdir()
    (tmp_path / "blobs" / "b").write_bytes(b"")
    root = tmp_path / "snapshots" / "1"
    (root / "file").symlink_to("../../blobs/b")
    (root / "up").symlink_to("..")
    (root / "passwd").symlink_to("/etc/passwd")
    for name in ("file", "up/1/file", "up", "passwd"):
        with pytest.raises(FormatError, match=r"expected a file inside .* which leads to"):
            resolve_inside(root, name)
    assert resolve_inside(root, "file", within=tmp_path) == (tmp_path / "blobs" / "b").resolve()
    with pytest.raises(FormatError, match="which leads to"):
        resolve_inside(root, "passwd", within=tmp_path)


# ---- the translation itself


def test_errors_of_the_disk_keep_their_errno_and_name_a_file():
    with pytest.raises(StorageError) as caught, storage_errors("here", "read"):
        raise OSError(errno.EIO, "Input/output error")
    assert (caught.value.errno, caught.value.filename, str(caught.value)) == (
        errno.EIO,
        "here",
        "[Errno 5] cannot read: Input/output error: 'here'",
    )
    with pytest.raises(StorageError, match="'there'"), storage_errors("here", "read"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "there")
    with pytest.raises(StorageError, match="cannot read: odd: 'here'") as caught, storage_errors("here", "read"):
        raise OSError("odd")
    assert caught.value.errno == errno.EIO
