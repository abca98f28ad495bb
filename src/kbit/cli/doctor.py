"""`kbit doctor`: what this machine and installation can do, and what to do about the rest."""

import os
import platform
import warnings
from typing import Any

from kbit.cli.options import Debug, Json, Threads
from kbit.cli.output import Output, verb
from kbit.core.installation import EXTRA_OF, EXTRAS, package_version, version_of

__all__ = ["doctor", "report"]


@verb
def doctor(threads: Threads = 0, json: Json = False, debug: Debug = False) -> None:
    """Show instruction sets, threads, memory roof and installed extras, and what could be better."""
    output = Output(json)
    output.note("measuring how fast memory can be read…")
    found = report(threads)
    extras = {name: version or "missing" for name, version in found["extras"].items()}
    lines = {
        "kbit": found["kbit"],
        "Python": found["python"],
        "platform": found["platform"],
        "instruction set": f"{found['isa']} (available: {', '.join(found['available_isas'])})",
        "threads": str(found["threads"]),
        "huge pages": found["huge_pages"],
        "memory roof": f"{found['memory_roof_gb_per_s']:.1f} GB/s",
        "tuning": found["tuning"],
        **extras,
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        output.say(f"{name:<{width}}  {value}")
    for hint in found["hints"]:
        output.say(f"hint: {hint}")
    output.result(found)


def report(threads: int = 0) -> dict[str, Any]:
    """The facts as a JSON object; the memory roof is the best of three passes."""
    from kbit import native
    from kbit.native.memory import huge_pages

    if threads:
        native.set_threads(threads)
    facts: dict[str, Any] = {
        "kbit": package_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "isa": native.isa(),
        "available_isas": native.available_isas(),
        "threads": native.threads(),
        "huge_pages": huge_pages(),
        "memory_roof_gb_per_s": max(native.memory_roof(threads) for _ in range(3)),
        "tuning": tuning(native.isa()),
        "extras": {package: version_of(package) for package in EXTRA_OF},
    }
    return facts | {"hints": hints(facts)}


def tuning(isa: str) -> str:
    """Whether choices of `kbit bench --tune` are in use, and if not, why."""
    from kbit.kernels.tuning import active_tuning, forget_tunings, tuning_path

    path = tuning_path()
    if path is None:
        return "off (KBIT_TUNING is empty)"
    if not path.exists():
        return f"none at {path}: the defaults are in use"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget_tunings()
        found = active_tuning(isa)
    if found is None:
        return str(caught[-1].message) if caught else f"{path} is not in use"
    return f"{len(found.choices)} choices of {path}"


def hints(facts: dict[str, Any]) -> list[str]:
    """What the user could change, most useful first."""
    from kbit.native.memory import HUGE_PAGES

    found = []
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if facts["extras"][package] is None]
        if missing and extra != "gpu":
            found.append(f"{', '.join(missing)} not installed: pip install 'kbit[{extra}]' for {_PURPOSE[extra]}")
    if facts["isa"] != facts["available_isas"][0]:
        found.append(f"running on {facts['isa']} though {facts['available_isas'][0]} is available: unset KBIT_ISA")
    elif facts["isa"] == "scalar":
        found.append("no vector instruction set that kbit knows: expect a small part of the usual speed")
    if facts["huge_pages"] == "never":
        found.append(f"huge pages are off, which costs 5–15% of speed: echo madvise | sudo tee {HUGE_PAGES}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if facts["threads"] > cores:
        found.append(f"{facts['threads']} threads on {cores} cores slow each other down: unset KBIT_THREADS")
    return found


_PURPOSE = {
    "torch": "encoding and running models",
    "hf": "transformers' models and text generation",
    "study": "plots as PNG and lm_eval tasks",
}
