"""Recipe of a family of models: one TOML file.

name = "quill"
tokenizer = "path/to/folder"            # with a tokenizer.json; paths are relative to the recipe

[data]
train = ["books.txt.zst"]               # .txt, .txt.zst, folders of them
heldout = ["books-heldout"]             # never trained on; the last figure is its loss

[architecture]                          # fields of the transformers config, for all sizes
model_type = "llama"

[training]
tokens = 15_000_000
batch_tokens = 8192

[sizes."0.4m"]                          # fields of the config and of [training] that this size has of its own
hidden_size = 64
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from kbit.core.digest import digest_json
from kbit.core.errors import SchemeError
from kbit.core.registry import suggest
from kbit.core.shown import shown
from kbit.core.tables import Table, read_toml

__all__ = ["DataFiles", "SizeRecipe", "TrainingOptions", "TrainingRecipe"]

Precision = Literal["bf16", "fp32"]
Decay = Literal["cosine", "linear"]


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Where the text is.

    Attributes:
        train, heldout: files and folders.
        separator: what divides documents inside a file; empty for a document a file.
        heldout_tokens: at most so many tokens of the held-out text are scored; 0 for all of it.
    """

    train: tuple[Path, ...]
    heldout: tuple[Path, ...]
    separator: str
    heldout_tokens: int


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a size is trained.

    Attributes:
        tokens: tokens to train on, rounded down to whole batches.
        context: tokens a window.
        batch_tokens: tokens a step, over all processes and accumulated parts.
        accumulation: parts that a process's share of a batch is run in, one after another.
        learning_rate: its largest value.
        warmup_steps: steps of a linear rise to it.
        constant_share: share of the steps, warm-up included, after which it falls.
        decay: how it falls: along a half ``cosine`` or ``linear``.
        final_share: what is left of it at the end.
        weight_decay: of matrices (AdamW).
        beta1, beta2: moments of AdamW.
        clip: largest norm of the gradient; 0 for none.
        precision: ``bf16`` autocast or ``fp32``; weights and moments are float32 in either.
        seed: of the weights and of the data's order.
        checkpoint_steps: steps between checkpoints.
    """

    tokens: int
    context: int = 512
    batch_tokens: int = 8192
    accumulation: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    constant_share: float = 0.0
    decay: Decay = "cosine"
    final_share: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    precision: Precision = "bf16"
    seed: int = 0
    checkpoint_steps: int = 50

    @property
    def batch_windows(self) -> int:
        """Windows a step."""
        return self.batch_tokens // self.context

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.tokens // self.batch_tokens


_OPTIONS = {field.name for field in fields(TrainingOptions)}
_INTEGERS = {"tokens": 1, "context": 2, "batch_tokens": 2, "accumulation": 1, "warmup_steps": 0, "seed": 0, "checkpoint_steps": 1}
_NUMBERS = {
    "learning_rate": 10.0,
    "constant_share": 1.0,
    "final_share": 1.0,
    "weight_decay": 10.0,
    "beta1": 0.9999,
    "beta2": 0.999999,
    "clip": 1e9,
}


@dataclass(frozen=True, slots=True)
class SizeRecipe:
    """One size: fields of its transformers config, and how it is trained."""

    name: str
    architecture: Mapping[str, Any]
    options: TrainingOptions


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """A family of models; see the module for its file."""

    name: str
    path: Path
    tokenizer: Path
    data: DataFiles
    sizes: tuple[SizeRecipe, ...]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The recipe in a TOML file.

        Raises:
            FormatError: it is not TOML.
            SchemeError: a word, type or value that does not fit; names file and field.
            StorageError: it cannot be read.
        """
        path = Path(path)
        table = read_toml(path)
        data = table.table("data")
        architecture, training = table.table("architecture"), table.table("training")
        sizes = table.table("sizes")
        if not list(sizes):
            raise SchemeError(f"{table.where('sizes')}: expected at least one size, got none")
        read = cls(
            name=_file_name(table, "name", table.text("name")),
            path=path,
            tokenizer=path.parent / table.text("tokenizer"),
            data=DataFiles(
                train=_paths(data, "train", path.parent),
                heldout=_paths(data, "heldout", path.parent),
                separator=data.text("separator", ""),
                heldout_tokens=data.integer("heldout_tokens", 0, least=0),
            ),
            sizes=tuple(_size(sizes, name, architecture, training) for name in sizes),
        )
        for part in (table, data, training):
            part.finish()
        return read

    def chosen(self, names: tuple[str, ...]) -> tuple[SizeRecipe, ...]:
        """The sizes of these names; all of them for none.

        Raises:
            SchemeError: an unknown name.
        """
        known = {size.name: size for size in self.sizes}
        for name in names:
            if name not in known:
                raise SchemeError(f"{self.path}: sizes: unknown size {shown(name)}: {suggest(name, known)}")
        return tuple(known[name] for name in names) if names else self.sizes

    def digest(self, size: SizeRecipe, tokens_digest: str) -> str:
        """Of all that the trained weights depend on, given the digest of the tokens; not of how often checkpoints are written."""
        options = asdict(size.options)
        del options["checkpoint_steps"]
        return digest_json({"architecture": dict(size.architecture), "options": options, "tokens": tokens_digest})


def _size(sizes: Table, name: str, architecture: Table, training: Table) -> SizeRecipe:
    table = sizes.table(_file_name(sizes, name, name))
    own = {key: table.value(key) for key in table}
    fields_of_config = {key: architecture.value(key) for key in architecture}
    fields_of_config |= {key: value for key, value in own.items() if key not in _OPTIONS}
    given = {
        key: _option(table if key in own else training, key) for key in sorted(_OPTIONS) if key in own or key in training or key == "tokens"
    }
    options = TrainingOptions(**given)
    if options.batch_tokens % (options.context * options.accumulation):
        raise SchemeError(
            f"{training.where('batch_tokens')}: expected a multiple of context · accumulation "
            f"({options.context} · {options.accumulation}), got {options.batch_tokens}"
        )
    if not options.steps:
        raise SchemeError(f"{training.where('tokens')}: expected at least one batch of {options.batch_tokens}, got {options.tokens}")
    return SizeRecipe(name, fields_of_config, options)


def _option(table: Table, key: str) -> Any:
    if key in _INTEGERS:
        return table.integer(key, least=_INTEGERS[key])
    if key in _NUMBERS:
        return table.number(key, most=_NUMBERS[key])
    return table.text(key, choices=get_args(Decay if key == "decay" else Precision))


def _paths(table: Table, key: str, base: Path) -> tuple[Path, ...]:
    paths = tuple(base / text for text in table.texts(key))
    if not paths:
        raise SchemeError(f"{table.where(key)}: expected at least one file or folder, got none")
    return paths


def _file_name(table: Table, key: str, name: str) -> str:
    if not name or name.startswith(".") or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise SchemeError(f"{table.where(key)}: expected a name of letters, digits, '.', '_' and '-', got {shown(name)}")
    return name
