"""What `kbit quantize` does with a target: decides on a plan, and says what it is."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbit.cli.output import Output, columns
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme

if TYPE_CHECKING:
    from kbit.allocate.decide import Decision
    from kbit.allocate.gate import Gate
    from kbit.calibrate import CalibrationText, GeneratedText
    from kbit.cli.alarm import Band
    from kbit.model.quantize import QuantizeResult
    from kbit.study.book import LawBook

__all__ = ["AUTO", "Run", "Target", "one_way", "open_scheme", "plan_lines", "read_plan", "step_ms"]

#: scheme of embeddings or head that shares in the budget
AUTO = "auto"
PLAN_BYTES = 32 << 20


def one_way(given: dict[str, Any], default: str | None) -> None:
    """Refuse several of the options that each say what to encode to, and none where there is no `default` either.

    Raises:
        SchemeError: names them.
    """
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise SchemeError(f"expected one of {', '.join(given)}, got {' and '.join(named)}")
    if not named and default is None:
        raise SchemeError(f"expected one of {', '.join(given)}, or --quality, got none")


def read_plan(path: str) -> Plan:
    """The plan of a JSON file, as `kbit quantize --json` and a model's manifest state it.

    Raises:
        SchemeError: it states none.
        FormatError, StorageError: it cannot be read.
    """
    from kbit.core.files import read_json

    value = read_json(Path(path), max_bytes=PLAN_BYTES)
    inner = value.get("plan") if isinstance(value, dict) else None
    return Plan.from_json(inner if isinstance(inner, dict) else value)


def open_scheme(text: str) -> Scheme | None:
    """A scheme, or None for ``auto``."""
    return None if text == AUTO else Scheme.parse(text)


def step_ms(target_ms: float | None, tokens_per_s: float | None) -> float | None:
    """Milliseconds a token of either option.

    Raises:
        SchemeError: a time or rate that is not above 0.
    """
    for name, value in (("--target-ms", target_ms), ("--target-tokens-per-s", tokens_per_s)):
        if value is not None and not value > 0:
            raise SchemeError(f"expected {name} above 0, got {value}")
    if tokens_per_s is not None:
        return 1000 / tokens_per_s
    return target_ms


@dataclass(frozen=True, slots=True)
class Target:
    """What `--quality` and the targets say.

    Attributes:
        quality: fast, good or best.
        bpw, size_bytes, step_ms: one of them at most.
        journal: file of losses to keep; None keeps them beside the output until it is done.
        method: measured, predicted, or None.
    """

    quality: str
    bpw: float | None
    size_bytes: int | None
    step_ms: float | None
    journal: str | None
    method: str | None


class Run:
    """One encoding, from folder to folder.

    Attributes:
        gate: the check that ran, or None.
        decision: what was decided, with a target.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        calibration: "CalibrationText | GeneratedText | None",
        check: bool,
        law: str | None,
        options: dict[str, Any],
    ) -> None:
        self._source, self._folder, self._calibration, self._check, self._options = source, folder, calibration, check, options
        self._law, self._book = law, None if law is None else _read_law(law)
        self.gate: Gate | None = None
        self.decision: Decision | None = None

    def encode(self, plan: Plan) -> "QuantizeResult":
        """Encode by a plan."""
        return self._quantize(plan, self._calibration, None, [])

    def decide(
        self,
        output: Output,
        target: Target,
        outer: tuple[str | None, str | None],
        rules: tuple[tuple[str, Scheme], ...],
        skip: tuple[str, ...],
    ) -> "QuantizeResult":
        """Decide on a plan, say so, and encode by it; `outer` are the schemes of embedding and head."""
        from kbit.allocate.decide import Request, decide
        from kbit.allocate.sensitivity import FILE_NAME

        journal = Path(target.journal) if target.journal else self._folder.with_name(self._folder.name + ".sensitivity")
        open_by_default = AUTO if target.size_bytes is not None and target.quality == "best" else "16"
        embedding, head = (open_scheme(open_by_default if text is None else text) for text in outer)
        request = Request(
            journal=journal,
            quality=target.quality,  # type: ignore[arg-type]
            bpw=target.bpw,
            size_bytes=target.size_bytes,
            step_ms=target.step_ms,
            embedding=embedding,
            head=head,
            rules=rules,
            skip=skip,
            calibration=self._calibration,
            arithmetic=self._options["calibration_arithmetic"],
            method=target.method,  # type: ignore[arg-type]
            max_shard_bytes=self._options["max_shard_bytes"],
            threads=self._options["threads"],
            progress=True,
        )
        if not self._options["resume"] and target.journal is None:
            journal.unlink(missing_ok=True)
        self.decision = decision = decide(self._source, request)
        for line in plan_lines(decision):
            output.say(line)
        with tempfile.TemporaryDirectory(prefix="kbit-") as work:
            files = []
            if decision.sensitivity is not None:
                files.append(Path(work) / FILE_NAME)
                decision.sensitivity.write(files[0])
            predicted = None if decision.allocation is None else decision.allocation.predicted_kl
            found = self._quantize(decision.plan, decision.calibration, predicted, files)
        if target.journal is None:
            journal.unlink(missing_ok=True)
        return found

    def _quantize(self, plan: Plan, calibration: Any, predicted: float | None, files: list[Path]) -> "QuantizeResult":
        from kbit.allocate.gate import Gate
        from kbit.allocate.recipes import books
        from kbit.model.quantize import quantize_folder

        if self._check:
            self.gate = Gate(self._source, self._plain_texts() or tuple(books()), predicted)
        return quantize_folder(
            self._source, self._folder, plan, calibration=calibration, progress=True, files=files, check=self.gate, **self._options
        )

    def _plain_texts(self) -> tuple[Path, ...]:
        """Calibration files that are plain text: not tokens, dialogues, or what the model writes."""
        from kbit.calibrate.tokens import TOKEN_SUFFIXES

        paths = [Path(path) for path in getattr(self._calibration, "paths", ())]
        return tuple(path for path in paths if path.suffix not in (".jsonl", *TOKEN_SUFFIXES))

    def band(self, found: "QuantizeResult") -> "Band | None":
        """Whether what the check measured is what laws predict; None where nothing was measured."""
        from kbit.cli.alarm import predicted_band
        from kbit.store.folder import open_model

        if self.gate is None or self.gate.result is None or self.gate.result.kl is None:
            return None
        with open_model(self._folder) as stored:
            assert stored.manifest is not None, "the folder was just written"
            return predicted_band(self.gate.result, self._source, stored.manifest.modules, found.parameters, self._law, self._book)

    def to_json(self) -> dict[str, Any]:
        """What the result says beyond what was encoded."""
        checked = None if self.gate is None or self.gate.result is None else self.gate.result.to_json()
        return {"check": checked, "allocation": None if self.decision is None else self.decision.to_json()}


def _read_law(path: str) -> "LawBook":
    from kbit.study.book import LawBook

    return LawBook.load(path)


def plan_lines(decision: "Decision") -> Iterable[str]:
    """The plan for people: how many weights got which scheme, then each by its name."""
    allocation = decision.allocation
    if allocation is None:
        yield f"plan              {decision.plan.default.text} for all linear weights"
        return
    counted = Counter(scheme.text for scheme in allocation.chosen.values())
    yield f"plan              {allocation.bpw:.3f} bits a weight, predicted KL {allocation.predicted_kl:.3g} nats a token" + (
        "" if decision.step_ms is None else f", {decision.step_ms:.2f} ms a token"
    )
    yield "                  " + ", ".join(f"{count} × {text}" for text, count in counted.most_common())
    yield columns(["module", "scheme"], [[name, scheme.text] for name, scheme in allocation.chosen.items()], left=2)
