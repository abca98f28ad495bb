"""What a figure was measured on: printed and stored beside every figure."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("kbit", "numpy", "torch", "transformers", "bitsandbytes", "hqq", "lm_eval")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, versions and the commit that the figures were taken on."""
    from kbit import native

    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), platform.processor())
    family = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith(("cpu family", "model\t"))][:2]
    return {
        "processor": f"{model} (family {' model '.join(family)})",
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "isa": native.isa(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "load_average": os.getloadavg()[0],
    }


def print_header(title: str) -> dict[str, Any]:
    """Prints and returns the machine's description."""
    facts = describe()
    versions = " ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    hardware = f"{facts['processor']}, {facts['cpus']} CPUs, {facts['memory_gib']} GiB, {facts['isa']}"
    print(f"{title}\n{hardware}; {versions}; commit {facts['commit']}")
    if facts["load_average"] > 0.5:
        print(f"warning: load average {facts['load_average']:.1f}: the machine is not idle")
    return facts


def save(path: Path | None, result: dict[str, Any], *, quiet: bool = False) -> None:
    """Writes the result as JSON where a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        if not quiet:
            print(f"wrote {path}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    root = Path(__file__).parent
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
