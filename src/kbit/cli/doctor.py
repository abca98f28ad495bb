"""`kbit doctor`: what this machine and installation can do, and what to do about the rest."""

import os
import platform
from typing import Any

from kbit.cli.options import Debug, Json, Threads
from kbit.cli.output import Output, verb
from kbit.core.installation import EXTRA_OF, EXTRAS, package_version, version_of
from kbit.core.sizes import count_text

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
        "tuning": tuning_text(found["tuning"]),
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


def tuning(isa: str) -> dict[str, Any]:
    """Whether choices of `kbit bench --tune` are in use: `state` is ``off``, ``none``, ``active`` or ``ignored``, and `error` says why."""
    from kbit.core.errors import KbitError
    from kbit.kernels.tuning import find_tuning, tuning_path

    path = tuning_path()
    if path is None:
        return {"state": "off", "path": None, "choices": 0, "error": None}
    try:
        found = find_tuning(path, isa)
    except KbitError as error:
        return {"state": "ignored", "path": str(path), "choices": 0, "error": f"{type(error).__name__}: {error}"}
    return {"state": "none" if found is None else "active", "path": str(path), "choices": len(found.choices) if found else 0, "error": None}


def tuning_text(facts: dict[str, Any]) -> str:
    """What `tuning` found, in words."""
    match facts["state"]:
        case "off":
            return "off (KBIT_TUNING is empty, or there is no home folder): default kernels"
        case "none":
            return f"none at {facts['path']}: default kernels"
        case "ignored":
            return f"ignored, default kernels: {facts['error']}"
    return f"{count_text(facts['choices'], 'choice')} from {facts['path']}"


def hints(facts: dict[str, Any]) -> list[str]:
    """What the user could change, most useful first."""
    from kbit.native.memory import HUGE_PAGES

    found = []
    for extra, purpose in _PURPOSE.items():
        missing = [package for package in EXTRAS[extra] if facts["extras"][package] is None]
        if missing:
            found.append(f"{', '.join(missing)} not installed: pip install 'kbit[{extra}]' for {purpose}")
    if facts["isa"] != facts["available_isas"][0]:
        found.append(f"running on {facts['isa']} though {facts['available_isas'][0]} is available: unset KBIT_ISA")
    elif facts["isa"] == "scalar":
        found.append("no vector instruction set that kbit knows: expect a small part of the usual speed")
    if facts["tuning"]["state"] == "ignored":
        found.append("the stored tuning does not speak for this machine: kbit bench --tune makes a new one")
    if facts["huge_pages"] == "never":
        found.append(f"huge pages are off, which costs 5–15% of speed: echo madvise | sudo tee {HUGE_PAGES}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if facts["threads"] > cores:
        found.append(f"{facts['threads']} threads on {cores} cores slow each other down: unset KBIT_THREADS")
    return found


#: extra → what it is for; those that only some machines or tasks need are not missed
_PURPOSE = {
    "torch": "encoding and running models",
    "hf": "transformers' models and text generation",
    "study": "plots as PNG, lm_eval tasks and Parquet",
}
