"""Loading a folder whose weights are packed: an empty packed layer for each, filled by transformers array by array, by name.

Which layers are packed, and how, is read from the seal of the files (`kbit.store.manifest`) and not decided again from the plan: the file
knows. Names in it are those of the saved model; a class with another prefix (`BertModel` from a `BertForMaskedLM`) finds them by
transformers' own renaming. Files without a seal (written by a tool that dropped it) are read by the plan in `config.json`.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers.core_model_loading import WeightRenaming, rename_source_key

from kbit.core.errors import FormatError, ModelError, NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme, TensorKind
from kbit.hf.ties import as_tied, drop_aliases, packed_layer, share_aliases, take_ties, weight_names
from kbit.kernels import Mode
from kbit.nn.swap import swap_targets
from kbit.nn.targets import find_targets
from kbit.store.container import open_container
from kbit.store.folder import StoredModel
from kbit.store.manifest import Manifest
from kbit.store.parts import SUFFIXES

__all__ = ["StoredWeights", "read_seals"]


def read_seals(files: Iterable[str | Path]) -> tuple[Manifest | None, dict[str, Path]]:
    """What the files' seals say of the model, checked as `kbit.store.folder` does, and tensor → file; no manifest where there is no seal.

    Raises:
        FormatError, IntegrityError: a file is not what it claims to be, or files do not belong together.
    """
    with ExitStack() as stack:
        containers = {Path(file).name: stack.enter_context(open_container(file)) for file in files}
        folder = next(iter(containers.values())).path.parent if containers else Path()
        stored = StoredModel(folder, {}, containers, None)
        return stored.manifest, {name: stored.container_of(name).path for name in stored.names()}


class StoredWeights:
    """The packed layers of one call of `from_pretrained`.

    Attributes:
        manifest: what the files' seals say, if they carry them.
        targets: weights that are packed.
        ties: pairs (target, source) taken over from transformers.
    """

    def __init__(self, model: Any, files: Iterable[str | Path], plan: Plan, mode: Mode) -> None:
        self.manifest, found = read_seals(files)
        rename = _Rename(model)
        self._file_of = {rename.array(key): file for key, file in found.items()}
        present = set(self._file_of)
        schemes = {} if self.manifest is None else _schemes(self.manifest, rename)

        def choose(name: str, kind: TensorKind) -> Scheme:
            return plan.scheme_for(name, kind) if self.manifest is None else schemes.get(name, KEEP)

        with as_tied(model, skip=lambda target, source: target in present and source in present):
            self.targets, kept = find_targets(model, choose)
        self._check(model, schemes, {layer.name: layer.reason for layer in kept})
        swap_targets(model, self.targets, encoder=None, mode=mode)
        self._stored = {target.name: _stored_place(target.name, target.places, present) for target in self.targets}
        self.ties = take_ties(model, [name for target in self.targets for name in weight_names(target)])
        for target in self.targets:
            self._check_parts(model, self._stored[target.name], present)
            drop_aliases(model, self._stored[target.name], target.places)

    def finish(self, model: Any) -> None:
        """After loading: tie what is tied, and see that nothing is empty or holds what no encoder writes.

        Raises:
            ModelError: an array was never loaded.
            FormatError, NumericsError: codes beyond the levels, or scales that are no numbers; no kernel has seen them.
        """
        for target in self.targets:
            share_aliases(model, self._stored[target.name], target.places)
            for part, array in model.get_submodule(target.name).named_parameters(recurse=False):
                if array.is_meta:
                    raise ModelError(f"{target.name}.{part} was not loaded from the checkpoint")
            self._validate(model, target.name)
        model.all_tied_weights_keys.update(self.ties)

    def _validate(self, model: Any, name: str) -> None:
        try:
            packed_layer(model, name).quantized.validate()
        except (FormatError, NumericsError) as error:
            raise type(error)(f"{self._file_of[f'{self._stored[name]}.weight']}: module {self._stored[name]!r}: {error}") from None

    def _check(self, model: Any, schemes: Mapping[str, Scheme], kept: Mapping[str, str]) -> None:
        """Every packed module that this model has must be a layer that can hold packed weights."""
        places = {place for target in self.targets for place in target.places}
        known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
        for name in schemes:
            if name in known and name not in places:
                reason = kept.get(name, "it is no such layer")
                raise ModelError(f"the file holds {name} in {schemes[name].text}, and here it stays ordinary: {reason}")

    def _check_parts(self, model: Any, place: str, present: set[str]) -> None:
        layer = packed_layer(model, place)
        for part in layer.part_names:
            if f"{place}.{part}" not in present:
                raise FormatError(f"{place} is packed as {layer.scheme.text}: expected an array {part!r} in the checkpoint, got none")


class _Rename:
    """Names in the file → names in the model, as the loader of transformers will rename them."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        self.renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
        self.prefix, self.known = model.base_model_prefix, model.state_dict()

    def __call__(self, name: str) -> str:
        """The model's name of a tensor of the ordinary model."""
        renamed = rename_source_key(name, self.renamings, [], self.prefix, self.known)[0]
        if renamed not in self.known and name in self.known:
            return name
        return str(renamed)

    def module(self, name: str) -> str:
        """The model's name of a packed module; a projection of experts is a parameter of the ordinary model."""
        projection = self(name)
        return projection if projection in self.known else self(f"{name}.weight").removesuffix(".weight")

    def array(self, name: str) -> str:
        """The model's name of a stored array."""
        module, _, part = name.rpartition(".")
        return f"{self.module(module)}.{part}" if part in SUFFIXES else self(name)


def _schemes(manifest: Manifest, rename: _Rename) -> dict[str, Scheme]:
    """Module of the model → its scheme, tied modules included."""
    schemes = {rename.module(name): module.scheme for name, module in manifest.modules.items()}
    for alias, owner in manifest.ties.items():
        if owner in manifest.modules:
            schemes[rename.module(alias)] = manifest.modules[owner].scheme
    return schemes


def _stored_place(name: str, places: tuple[str, ...], present: set[str]) -> str:
    return next((place for place in places if f"{place}.weight" in present), name)
