"""The size of a model's files before any of them is written."""

from collections.abc import Iterable
from dataclasses import replace

from kbit.store.header import TensorSpec, build_header
from kbit.store.layout import layout_units
from kbit.store.manifest import MANIFEST_KEY, ROOT_KEY, Manifest
from kbit.store.model_writer import DEFAULT_SHARD_BYTES, WIDEST_LOSS
from kbit.store.seal import DIGEST_KEY, HASHES_KEY, ZERO_DIGEST
from kbit.store.shards import plan_shards
from kbit.store.writer import file_order

__all__ = ["planned_bytes"]


def planned_bytes(manifest: Manifest, plain: Iterable[TensorSpec], max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> int:
    """Bytes of all weight files, headers included, that `ModelWriter` makes of this."""
    units = layout_units(manifest, plain)
    unit_of = {spec.name: unit for unit, specs in units.items() for spec in specs}
    total = 0
    for specs in plan_shards(units.values(), max_shard_bytes).values():
        modules = dict.fromkeys(unit_of[spec.name] for spec in specs)
        part = replace(manifest.part(name for name in modules if name in manifest.modules), loss=WIDEST_LOSS)
        seal = {DIGEST_KEY: ZERO_DIGEST.decode(), HASHES_KEY: "0" * (64 * len(specs))}
        header = build_header(file_order(specs), {**seal, ROOT_KEY: "0" * 64, MANIFEST_KEY: part.to_text(), "format": "pt"})
        total += len(header) + sum(spec.nbytes for spec in specs)
    return total
