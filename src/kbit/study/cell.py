"""Cells: what one row of a study depends on, and the digest that names it.

A digest covers contents, never places: a model or text that moves keeps its rows, one that changes gets new ones.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from kbit.core.digest import digest_json
from kbit.core.installation import package_version
from kbit.core.scheme import KEEP, Scheme
from kbit.study.schemes import row_bits

__all__ = ["PROTOCOL", "QualityCell", "SpeedCell", "method_text", "speed_scheme"]

#: counts up when measurements change their meaning
PROTOCOL = 1
#: methods that choose codes and scales, and leave the bytes laid out as they were
_SAME_LAYOUT = frozenset({"imp", "awq", "hqq", "actorder", "gptq"})


@dataclass(frozen=True, slots=True)
class QualityCell:
    """Size, loss and divergence of one model under one scheme.

    Attributes:
        family, model, params, model_sha256: which model.
        path: its folder.
        scheme, embedding, head: texts of the schemes.
        dataset, context, windows, text_sha256: what it is scored on.
        text_paths: the files.
        calibration_paths, calibration_sha256, calibration_tokens, seed: what its methods see; empty and 0 without methods.
        tasks, task_limit, task_folder, task_sha256: tasks of lm_eval.
    """

    family: str
    model: str
    params: int
    model_sha256: str
    path: str
    scheme: str
    embedding: str
    head: str
    dataset: str
    context: int
    windows: int
    text_sha256: str
    text_paths: tuple[str, ...]
    calibration_paths: tuple[str, ...] = ()
    calibration_sha256: str = ""
    calibration_tokens: int = 0
    seed: int = 0
    tasks: tuple[str, ...] = ()
    task_limit: int = 0
    task_folder: str = ""
    task_sha256: str = ""

    kind = "quality"

    @property
    def key(self) -> str:
        """Digest of all that the row depends on."""
        return _key(self, ("path", "text_paths", "calibration_paths", "task_folder"))

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of the row that are known before it is measured."""
        scheme = Scheme.parse(self.scheme)
        return {
            "key": self.key,
            **{name: getattr(self, name) for name in ("family", "model", "params", "scheme", "model_sha256", "embedding", "head")},
            **{name: getattr(self, name) for name in ("dataset", "context", "windows", "text_sha256", "calibration_sha256", "seed")},
            "method": method_text(scheme),
            "bits": row_bits(scheme),
            "group_size": -1 if scheme.is_none else scheme.group_size,
            "grid": scheme.grid,
            "speed_scheme": speed_scheme(scheme),
        }


@dataclass(frozen=True, slots=True)
class SpeedCell:
    """Prefill and decode of one model under one scheme on one machine."""

    family: str
    model: str
    params: int
    model_sha256: str
    path: str
    scheme: str
    embedding: str
    head: str
    threads: int
    prompt_tokens: int
    decode_tokens: int
    repeats: int
    machine: str

    kind = "speed"

    @property
    def key(self) -> str:
        """Digest of all that the row depends on."""
        return _key(self, ("path",))

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of the row that are known before it is measured."""
        names = ("family", "model", "params", "scheme", "embedding", "head", "model_sha256", "threads", "machine")
        return {"key": self.key, **{name: getattr(self, name) for name in names}}


def _key(cell: QualityCell | SpeedCell, places: tuple[str, ...]) -> str:
    values = {field.name: getattr(cell, field.name) for field in fields(cell) if field.name not in places}
    return digest_json({"kind": cell.kind, "protocol": PROTOCOL, "kbit": package_version(), **values})


def method_text(scheme: Scheme) -> str:
    """How rows name the way in which codes were chosen."""
    if scheme.is_none:
        return "none"
    return "+".join((*scheme.methods, *scheme.parts)) or ("mse" if scheme.scale_search == "mse" else "nearest")


def speed_scheme(scheme: Scheme) -> str:
    """The scheme of the same layout of bytes: methods that only choose other codes left out."""
    if scheme == KEEP:
        return scheme.text
    layout = asdict(replace(scheme, methods=(), scale_search="absmax"))
    layout["methods"] = tuple(method for method in scheme.methods if method not in _SAME_LAYOUT)
    return Scheme(**layout).text
