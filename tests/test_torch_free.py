"""What works with numpy, safetensors and the compiled module alone: the file, the encoder, the kernels, and the verbs that read.

Where torch is installed, an import hook keeps it away from each process; `scripts/test-pythons` runs the same tests where it is not.
"""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

#: run in every process here: whoever asks for one of these gets what a machine without them says
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate", "matplotlib", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""
#: the embedded model, encoded from file to file as `kbit quantize` does, by the floors that need no torch
PACK = """
import re
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.store.check import side_files
from kbit.store.folder import open_model
from kbit.store.header import TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import ModelWriter
from kbit.tensor import BFloat16
source, target = sys.argv[1:]
scheme = Scheme.parse("nf4:g64")
with open_model(source) as stored:
    names = [name for name in stored.names() if re.search(r"layers[.]0[.].*_proj[.]weight$", name)]
    rest = [TensorSpec(name, stored.entry(name).dtype, stored.entry(name).shape) for name in stored.names() if name not in names]
    modules = {name.removesuffix(".weight"): Module(scheme, stored.entry(name).shape) for name in names}
    with ModelWriter(target, Manifest(Plan.of(scheme), modules), rest) as writer:
        for unit in list(writer.pending()):
            if unit in modules:
                writer.put_quantized(unit, encode(BFloat16(stored.array(f"{unit}.weight")), scheme, name=unit))
            else:
                writer.copy(stored, unit)
        print(writer.finish(stored.config | {"quantization_config": {"quant_method": "kbit"}}, side_files(source)))
"""
MAIN = "sys.argv[0] = 'kbit'\nfrom kbit.cli.main import main\nmain()"


def run(code: str, *arguments: object, returncode: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", BLOCK + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == returncode, done.stderr
    return done


@pytest.fixture(scope="module")
def source() -> Path:
    return Path(str(files("kbit").joinpath("data", "quill-4.2m")))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A packed model and its root."""
    folder = tmp_path_factory.mktemp("torch-free") / "packed"
    return folder, run(PACK, source, folder).stdout.strip()


def test_the_block_blocks() -> None:
    for package in ("torch", "transformers"):
        assert "No module named" in run(f"import {package}", returncode=1).stderr
    if importlib.util.find_spec("torch") is not None:
        assert subprocess.run([sys.executable, "-c", "import torch"], check=False).returncode == 0


def test_every_module_below_torch_can_be_imported() -> None:
    code = """
import importlib, pkgutil
import kbit
free = ("core", "native", "grids", "tensor", "entropy", "encoders", "store", "kernels", "engine", "charts", "cli")
failed, names = [], [found.name for found in pkgutil.walk_packages(kbit.__path__, "kbit.") if found.name.split(".")[1] in free]
for name in names:
    try: importlib.import_module(name)
    except ModuleNotFoundError: failed.append(name)
print(len(names), *failed)
"""
    count, *failed = run(code).stdout.split()
    assert int(count) > 60
    assert failed == ["kbit.cli.experiment"]  # what `kbit demo` measures


def test_verify_and_show(packed: tuple[Path, str], source: Path) -> None:
    folder, root = packed
    verified = json.loads(run(MAIN, "verify", folder, "--json").stdout)
    assert verified["ok"]
    assert (verified["root"], verified["modules"]) == (root, 7)
    shown = json.loads(run(MAIN, "show", folder, "--against", source, "--json").stdout)
    lines = [line for line in shown["tensors"] if line["scheme"] == "nf4:g64"]
    assert len(lines) == 7
    assert all(4 < line["bpw"] < 4.6 and 0.05 < line["error"] < 0.15 for line in lines)
    assert json.loads(run(MAIN, "show", source, "--json").stdout)["root"] is None


def test_damage_is_found(packed: tuple[Path, str], tmp_path: Path) -> None:
    data = bytearray((packed[0] / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    found = run(MAIN, "verify", tmp_path / "model.safetensors", returncode=1)
    assert "expected sha256" in found.stderr


def test_a_stored_matrix_is_multiplied_with(packed: tuple[Path, str]) -> None:
    code = """
import numpy as np
from kbit.kernels import matmul_exact, prepare
from kbit.store.folder import open_model
with open_model(sys.argv[1]) as stored:
    quantized = stored.quantized(min(stored.manifest.modules))
x = np.random.default_rng(0).standard_normal((2, quantized.shape[1])).astype(np.float32)
print(np.array_equal(prepare(quantized)[0].matmul(x, mode="exact"), matmul_exact(quantized, x)))
"""
    assert run(code, packed[0]).stdout == "True\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["doctor", "--json"]])
def test_verbs_that_need_no_model(arguments: list[str]) -> None:
    assert run(MAIN, *arguments).stdout


def test_a_model_is_run_and_timed(packed: tuple[Path, str]) -> None:
    facts = json.loads(run(MAIN, "run", packed[0], "It was a dark night", "--max-tokens", 5, "--json").stdout)
    assert (len(facts["token_ids"]), facts["runner"]) == (5, "engine")
    facts = json.loads(run(MAIN, "bench", packed[0], "--prompt", 8, "--decode", 2, "--repeats", 1, "--json").stdout)
    assert facts["runner"] == "engine"


@pytest.mark.parametrize("verb", ["eval", "quantize", "decode", "demo"])
def test_verbs_that_need_torch_name_the_extra(packed: tuple[Path, str], tmp_path: Path, verb: str) -> None:
    folder, out = packed[0], tmp_path / "out"
    arguments = {
        "quantize": [folder, "--scheme", "nf4", "-o", out],
        "decode": [folder, "-o", out],
        "demo": ["-o", out],
    }
    found = run(MAIN, verb, *arguments.get(verb, [folder]), returncode=1)
    assert found.stdout == ""
    assert found.stderr == "kbit: torch is needed here and is not installed: pip install 'kbit[torch]'\n"
    assert not out.exists()


def test_names_of_the_package(packed: tuple[Path, str]) -> None:
    code = """
import kbit
print(kbit.Scheme.parse("nf4"), kbit.Plan.of("nf4").default, kbit.QuantizedTensor.__name__, bool(kbit.__version__))
for name in ("load", "save", "encode", "decode"):
    try: getattr(kbit, name)
    except ImportError as error: print(error)
"""
    lines = run(code).stdout.splitlines()
    assert lines == ["nf4:g64 nf4:g64 QuantizedTensor True", *["torch is needed here and is not installed: pip install 'kbit[torch]'"] * 4]
