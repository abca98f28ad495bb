import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kbit.core.errors import FormatError, LimitError, ResumeMismatch, ShapeError, StorageError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.store.folder import open_model
from kbit.store.header import TensorSpec
from kbit.store.journal import Journal
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import ModelWriter, seal_model
from kbit.store.verify import verify
from kbit.store.writer import ContainerWriter

from .conftest import CONFIG, PLAIN, filled, random_tensor, small_manifest, tree_bytes, write_small_model

UNITS = ["model.embed_tokens.weight", "model.layers.0.up_proj", "model.layers.1.up_proj", "model.norm.weight"]
SHARDED = {"max_shard_bytes": 1500}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("m", "reference"))


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, bytes]:
    write_small_model(tmp_path / "reference", **SHARDED)
    return tree_bytes(tmp_path / "reference")


def test_units_come_in_natural_order(tmp_path: Path) -> None:
    plain = [TensorSpec(f"layer.{index}.bias", "F32", (2,)) for index in (10, 2, 1)]
    with ModelWriter(tmp_path / "m", Manifest(small_manifest().plan), plain) as writer:
        assert list(writer.pending()) == ["layer.1.bias", "layer.2.bias", "layer.10.bias"]


def test_a_finished_model_leaves_nothing_else(tmp_path: Path) -> None:
    root = write_small_model(tmp_path / "m", **SHARDED)
    assert leftovers(tmp_path) == []
    assert verify(tmp_path / "m").root == root


def test_side_files_and_loss_go_along(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    manifest = small_manifest()
    with ModelWriter(tmp_path / "m", manifest, []) as writer:
        for name in writer.pending():
            writer.put_quantized(name, random_tensor(name, manifest.modules[name]))
        root = writer.finish(CONFIG, [tmp_path / "tokenizer.json"], loss=-1.2345678901234567e-300)
    with open_model(tmp_path / "m") as model:
        assert model.manifest is not None
        assert model.manifest.loss == -1.2345678901234567e-300
        assert model.root == root
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "precious").write_text("x")
    with pytest.raises(StorageError, match="already there"):
        write_small_model(tmp_path / "m")
    assert leftovers(tmp_path) == []
    write_small_model(tmp_path / "m", overwrite=True)
    assert not (tmp_path / "m" / "precious").exists()
    assert leftovers(tmp_path) == []


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_small_model(tmp_path / "m")
    assert verify(tmp_path / "m").ok


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with ModelWriter(tmp_path / "m", Manifest(small_manifest().plan), PLAIN) as writer:
        for spec in PLAIN:
            writer.put(spec.name, filled(spec))
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "precious").write_text("x")
        with pytest.raises(StorageError, match="took this name meanwhile"):
            writer.finish(CONFIG)
    assert tree_bytes(tmp_path / "m") == {"precious": b"x"}


@pytest.mark.parametrize("done", range(4))
def test_unfinished_work_is_continued_to_the_same_bytes(tmp_path: Path, reference: dict[str, bytes], done: int) -> None:
    manifest = small_manifest()
    plain = {spec.name: spec for spec in PLAIN}
    with ModelWriter(tmp_path / "m", manifest, PLAIN, binding={"model": "abc"}, **SHARDED) as writer:
        for name in list(writer.pending())[:done]:
            if name in plain:
                writer.put(name, filled(plain[name]))
            else:
                writer.put_quantized(name, random_tensor(name, manifest.modules[name]))
        writer.put_rows(PLAIN[0].name, 0, filled(PLAIN[0])[:3])  # half a tensor is nothing
        with pytest.raises(FormatError, match="never written"):
            writer.finish(CONFIG)
    assert not (tmp_path / "m").exists()
    with ModelWriter(tmp_path / "m", manifest, PLAIN, binding={"model": "abc"}, **SHARDED) as writer:
        assert list(writer.pending()) == UNITS[done:]
    write_small_model(tmp_path / "m", **SHARDED)
    assert tree_bytes(tmp_path / "m") == reference
    assert leftovers(tmp_path) == []


def test_bytes_that_changed_since_are_done_again(tmp_path: Path, reference: dict[str, bytes]) -> None:
    for cut in (None, 100):
        with ModelWriter(tmp_path / "m", small_manifest(), PLAIN, binding={"model": "abc"}, overwrite=True, **SHARDED) as writer:
            for spec in PLAIN:
                writer.put(spec.name, filled(spec))
        for path in (tmp_path / "m.partial").iterdir():
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.seek(size - 20)
                file.write(b"\xff" * 3)
                file.truncate(cut)
        write_small_model(tmp_path / "m", overwrite=True, **SHARDED)
        assert tree_bytes(tmp_path / "m") == reference


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"binding": {"model": "other"}}, "model was 'abc', is 'other'"),
        ({"binding": {"model": "abc", "code": 1}}, "code was None, is 1"),
        ({"manifest": small_manifest(seed=8)}, "seed was 7, is 8"),
        ({"manifest": small_manifest(kbit_version="9")}, "kbit_version was"),
        ({"manifest": small_manifest().part([])}, "modules was"),
        ({"max_shard_bytes": 1 << 30}, "layout was"),
    ],
)
def test_unfinished_work_of_another_run_is_refused_and_kept(tmp_path: Path, change: dict[str, object], words: str) -> None:
    write_small_model(tmp_path / "m", finish=False, **SHARDED)
    before = tree_bytes(tmp_path)
    options = {"manifest": small_manifest(), "plain": PLAIN, "binding": {"model": "abc"}, **SHARDED, **change}
    with pytest.raises(ResumeMismatch, match=words):
        ModelWriter(tmp_path / "m", **options)  # type: ignore[arg-type]
    assert tree_bytes(tmp_path) == before
    ModelWriter(tmp_path / "m", **options, resume=False).close()  # type: ignore[arg-type]


def test_files_that_no_journal_vouches_for_are_not_published(tmp_path: Path) -> None:
    (tmp_path / "m.partial").mkdir()
    (tmp_path / "m.partial" / "junk.py").write_text("x")
    write_small_model(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_set_aside_by_a_killed_exchange_comes_back(tmp_path: Path) -> None:
    write_small_model(tmp_path / "m")
    old = tree_bytes(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / ".m.kbit-old")
    with pytest.raises(StorageError, match="already there"):
        write_small_model(tmp_path / "m")
    assert tree_bytes(tmp_path / "m") == old


def test_the_journal_speaks_only_of_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, append = ContainerWriter.sync, Journal.append
    monkeypatch.setattr(ContainerWriter, "sync", lambda self: (steps.append("sync"), sync(self))[1])
    monkeypatch.setattr(Journal, "append", lambda self, record: (steps.append("journal"), append(self, record))[1])
    write_small_model(tmp_path / "m", finish=False)
    assert steps == ["sync", "journal"] * len(UNITS)


def test_two_writers_at_once(tmp_path: Path) -> None:
    with (
        ModelWriter(tmp_path / "m", small_manifest(), PLAIN),
        pytest.raises(StorageError, match="one writer at a time"),
    ):
        ModelWriter(tmp_path / "m", small_manifest(), PLAIN)


def test_a_manifest_that_no_reader_takes_is_refused_before_the_work(tmp_path: Path) -> None:
    modules = {f"m.{index}": Module(Scheme.parse("nf4:g16"), (16, 16)) for index in range(30_000)}
    with pytest.raises(LimitError, match="expected at most 60000 brackets"):
        ModelWriter(tmp_path / "m", Manifest(Plan.of("nf4:g16"), modules))
    assert list(tmp_path.iterdir()) == []
    ModelWriter(tmp_path / "m", Manifest(Plan.of("nf4:g16"), modules), max_shard_bytes=2_000_000).close()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    manifest = small_manifest()
    first, second = (random_tensor(name, module) for name, module in manifest.modules.items())
    with ModelWriter(tmp_path / "m", manifest, PLAIN) as writer:
        with pytest.raises(FormatError, match=r"expected the arrays \['weight', 'weight_scale'\]"):
            writer.put_quantized("model.layers.0.up_proj", second)
        with pytest.raises(FormatError, match="expected the arrays"):
            writer.put_quantized("absent", first)
        with pytest.raises(ShapeError):
            writer.put("model.norm.weight", np.zeros(3, np.uint16))
        with pytest.raises(FormatError, match="no slot"):
            writer.put("model.nrm.weight", np.zeros(3, np.uint16))
    with pytest.raises(FormatError, match="listed twice"):
        ModelWriter(tmp_path / "n", manifest, [*PLAIN, PLAIN[0]])


def test_what_another_library_saved_is_sealed_in_place(tmp_path: Path) -> None:
    """As after transformers' `save_pretrained`: the arrays are right, the metadata is its own."""
    manifest = small_manifest()
    tensors = {name: random_tensor(name, module).parts() for name, module in manifest.modules.items()}
    arrays = {f"{name}.{part}": array for name, parts in tensors.items() for part, array in parts.items()}
    arrays["model.norm.weight"] = np.ones(5, np.float32)
    (tmp_path / "m").mkdir()
    save_file(arrays, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    root = seal_model(tmp_path / "m", manifest)
    report = verify(tmp_path / "m")
    assert (report.root, report.modules, report.tensors) == (root, 2, 6)
    found = load_file(tmp_path / "m" / "model.safetensors")
    assert {name: array.tobytes() for name, array in found.items()} == {name: array.tobytes() for name, array in arrays.items()}
    assert (tmp_path / "m" / "tokenizer.json").exists()
    assert leftovers(tmp_path) == []


CALLS = ["pwrite", "fsync", "posix_fallocate", "replace", "rename", "mkdir", "open"]


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_at_every_call_leaves_the_old_model_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict[str, bytes], call: str
) -> None:
    write_small_model(tmp_path / "m", small_manifest(seed=1))
    old = tree_bytes(tmp_path / "m")
    real: Callable[..., object] = getattr(os, call)
    faults = 0
    for fail_at in range(1, 400, 3 if call in ("open", "fsync") else 1):
        count = 0

        def faulty(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == fail_at:  # noqa: B023 (called within this turn of the loop)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, faulty)
            found = caught(lambda: write_small_model(tmp_path / "m", overwrite=True, **SHARDED))
        now = tree_bytes(tmp_path / "m")
        if count < fail_at:
            break
        faults += found is not None
        assert now in (old, reference)
        if now == reference:  # the fault came after the exchange: start from the old model again
            write_small_model(tmp_path / "m", overwrite=True, **SHARDED)
            write_small_model(tmp_path / "m", small_manifest(seed=1), overwrite=True)
    assert tree_bytes(tmp_path / "m") == reference
    assert leftovers(tmp_path) == []
    assert faults >= (0 if call == "rename" else 1)


def caught(action: Callable[[], object]) -> StorageError | None:
    try:
        action()
    except StorageError as error:
        return error
    return None


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from store.conftest import write_small_model
target, count, calls = Path(sys.argv[2]), 0, 0
def arm(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("pwrite", "fsync", "replace", "rename", "unlink", "ftruncate", "posix_fallocate", "mkdir"):
    arm(name)
kills = 0
while True:
    count, child = count + 1, os.fork()
    if child == 0:
        calls = 0
        write_small_model(target, overwrite=True, max_shard_bytes=1500)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    kills += 1
    print(kills, *sorted(path.name for path in target.iterdir()) if target.exists() else "", flush=True)
"""


def test_killed_at_every_call_and_resumed_each_time(tmp_path: Path, reference: dict[str, bytes]) -> None:
    """Each run is killed one call later than the run before it, and goes on with what that one left."""
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1", "KBIT_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    kills = done.stdout.splitlines()
    assert len(kills) >= 20
    names = " ".join(sorted(reference))
    assert all(line.partition(" ")[2] in ("", names) for line in kills), "the folder is whole or absent at every moment"
    assert tree_bytes(tmp_path / "m") == reference
    assert leftovers(tmp_path) == []


def test_killed_at_random_moments(tmp_path: Path, reference: dict[str, bytes]) -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from store.conftest import write_small_model\n"
    script += "print(flush=True); write_small_model(Path(sys.argv[2]), overwrite=True, max_shard_bytes=1500)"
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for delay in np.random.default_rng(0).uniform(0, 0.05, 5):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert not (tmp_path / "m").exists() or tree_bytes(tmp_path / "m") == reference
    write_small_model(tmp_path / "m", overwrite=True, **SHARDED)
    assert tree_bytes(tmp_path / "m") == reference
    assert leftovers(tmp_path) == []


def test_what_is_written_is_read_back_before_the_end(tmp_path: Path) -> None:
    manifest = small_manifest()
    first, second, *_ = manifest.modules
    tensor = random_tensor(first, manifest.modules[first])
    with ModelWriter(tmp_path / "m", manifest, []) as writer:
        writer.put_quantized(first, tensor)
    with ModelWriter(tmp_path / "m", manifest, []) as writer:
        again = writer.quantized(first)
        assert again.scheme == tensor.scheme
        assert all(np.array_equal(part, again.parts()[name]) for name, part in tensor.parts().items())
        with pytest.raises(FormatError, match="was not written in full"):
            writer.quantized(second)
        with pytest.raises(FormatError, match="has no quantized module 'nothing'"):
            writer.quantized("nothing")
