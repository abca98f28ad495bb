"""Engines, their types, and the commands that make and run a model."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENGINES", "Engine", "environments"]

HERE = Path(__file__).resolve().parent
KBIT_TYPES = ("nf2:g128", "nf3:g128", "nf4:g128", "int4:g128", "nf5:g128", "nf6:g128", "int8:g128")
GGUF_TYPES = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K", "TQ2_0", "IQ2_XXS")


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs a model.

    Attributes:
        name: as in ``run_NAME.py`` and in the folder of its environment.
        label: as people write it.
        types: of its weights.
        own: it has an environment of its own, made by `setup`; else it runs in that of the benchmark.
    """

    name: str
    label: str
    types: tuple[str, ...]
    own: bool = True

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return environments() / self.name / "bin" / "python" if self.own else Path(sys.executable)

    def missing(self) -> str | None:
        """Why its environment is not there, if it is not."""
        if self.python.exists():
            return None
        failure = environments() / f"{self.name}.failed"
        if failure.exists():
            return f"not installed: {failure.read_text().strip()}"
        return f"not installed: run benchmarks/peers/setup {self.name}"

    def file_name(self, kind: str) -> str:
        """Of its version of a model."""
        suffix = ".gguf" if self.name == "llama_cpp" else ""
        return f"{self.name}-{kind.replace(':', '-')}{suffix}"

    def make(self, checkpoint: Path, destination: Path, kind: str) -> list[str] | None:
        """The command that makes its version of a checkpoint; None where it takes the checkpoint itself."""
        script = HERE / f"make_{self.name}.py"
        if not script.exists():
            return None
        extra = {"kbit": [kind], "llama_cpp": [kind, str(destination.with_name(self.file_name("BF16")))]}.get(self.name, [])
        return [str(self.python), str(script), str(checkpoint), str(destination), *extra]

    def run(self) -> list[str]:
        """The command of its worker."""
        return [str(self.python), str(HERE / f"run_{self.name}.py")]

    def environment(self, threads: int) -> dict[str, str]:
        """Variables of its processes: peers must not find this source tree's packages."""
        dropped = ("PYTHONPATH",) if self.own else ()
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return kept | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("kbit", "kbit", KBIT_TYPES, own=False),
        Engine("llama_cpp", "llama.cpp", GGUF_TYPES),
        Engine("openvino", "OpenVINO GenAI", ("int4",)),
        Engine("onnxruntime", "ONNX Runtime GenAI", ("int4",)),
        Engine("ctranslate2", "CTranslate2", ("int8",)),
        Engine("torch", "torch", ("bf16",), own=False),
    )
}


def environments() -> Path:
    """Folder of the peers' environments: KBIT_PEERS, or ``build/peers`` in the source tree."""
    return Path(os.environ.get("KBIT_PEERS", HERE.parents[1] / "build" / "peers")).resolve()
