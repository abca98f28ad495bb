"""Files whose parts beside the codes are not what an encoder writes, under a seal that holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import FormatError, KbitError, NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.store.accounting import PACKED_PARTS, count_bits
from kbit.store.folder import open_model
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import ModelWriter
from kbit.store.verify import verify

from .conftest import CONFIG
from .test_attacks import write_raw

Arrays = dict[str, np.ndarray[Any, Any]]


def nothing(arrays: Arrays) -> None:
    pass


def everywhere(name: str, value: float) -> Any:
    def change(arrays: Arrays) -> None:
        arrays[f"m.{name}"][...] = value

    return change


def in_place(arrays: Arrays) -> None:
    """Outliers of [16, 64] in order, all in the first cell."""
    arrays["m.weight_outlier_count"][0, 0] = 10
    arrays["m.weight_outlier_place"][:] = np.arange(10)


def not_a_number(arrays: Arrays) -> None:
    in_place(arrays)
    arrays["m.weight_outlier_value"][3] = 0x7E00


@pytest.mark.parametrize(
    ("scheme", "change", "error", "message"),
    [
        ("int4:g64+outlier1", nothing, FormatError, "outlier counts that add up to 10, got 0"),
        ("int4:g64+outlier1", everywhere("weight_outlier_count", 255), FormatError, "outlier counts that add up to 10, got 1020"),
        ("int4:g64+outlier1", not_a_number, NumericsError, "finite numbers in weight_outlier_value"),
        ("int4:g64+outliercol5", nothing, FormatError, "ascend within 0…63"),
        ("int4:g64+outliercol5", everywhere("weight_column_index", -1), FormatError, "ascend within 0…63"),
        ("int4:g64+lowrank4", everywhere("weight_lowrank_scale", np.nan), NumericsError, "finite numbers in weight_lowrank_scale"),
        ("int2:g64+residual2", everywhere("weight_residual1_scale", 0x7E00), NumericsError, "residual level 1: expected finite scales"),
        ("int2:g64+residual2-1", everywhere("weight_residual2_scale", 0xFC00), NumericsError, "residual level 2: expected finite scales"),
        ("kmeans2:g64+successive2", everywhere("weight_residual1", 255), FormatError, "residual level 1: expected codes below 1"),
        (
            "kmeans2:g64+residual2",
            everywhere("weight_residual1_codebook", np.inf),
            NumericsError,
            "residual level 1: expected a codebook of fin",
        ),
        ("int4:g64+prune50", nothing, FormatError, "expected 32 weights with codes in each row"),
        ("int4:g64+prune2:4", everywhere("weight_mask", 0x0F), FormatError, "expected 32 weights with codes in each row"),
    ],
)
def test_parts_that_no_encoder_writes(tmp_path: Path, scheme: str, change: Any, error: type[KbitError], message: str) -> None:
    with pytest.raises(error, match=rf"model\.safetensors: module 'm': .*{message}"):
        verify(write_raw(tmp_path, change, scheme))


def test_sound_parts_pass(tmp_path: Path) -> None:
    verify(write_raw(tmp_path, in_place, "int4:g64+outlier1"))


def test_arrays_are_those_that_the_scheme_asks_for(tmp_path: Path) -> None:
    manifest = Manifest(Plan.of("int4:g64"), {"m": Module(Scheme.parse("int4:g64+outlier1"), (16, 64))})
    other = encode(np.ones((16, 64), np.float32), Scheme.parse("int4:g64+outlier2"))
    with ModelWriter(tmp_path / "out", manifest) as writer, pytest.raises(KbitError, match="weight_outlier_place"):
        writer.put_quantized("m", other)
    with ModelWriter(tmp_path / "bare", manifest) as writer, pytest.raises(FormatError, match="weight_outlier_count"):
        writer.put_quantized("m", encode(np.ones((16, 64), np.float32), Scheme.parse("int4:g64")))


def test_parts_come_back_from_the_disk_and_are_counted(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    schemes = {
        name: Scheme.parse(f"nf4:g16+{name}")
        for name in ("prune50+outlier1", "outliercol2+lowrank3", "prune2:4", "truncate1", "residual3-1")
    }
    modules = {name: Module(scheme, (2, 33, 70) if "lowrank" in name else (33, 70)) for name, scheme in schemes.items()}
    made = {name: encode(draw.normal(size=module.shape).astype(np.float32), module.scheme) for name, module in modules.items()}
    with ModelWriter(tmp_path / "out", Manifest(Plan.of("nf4"), modules)) as writer:
        for name in writer.pending():
            writer.put_quantized(name, made[name])
        writer.finish(CONFIG)
    with open_model(tmp_path / "out") as stored:
        for name, value in made.items():
            assert stored.quantized(name).dequantize().tobytes() == value.dequantize().tobytes()
        assert stored.plain_names() == ()
        bits = count_bits(stored)
        assert sum(bits.parts[part] for part in PACKED_PARTS) == 8 * sum(value.size_bytes for value in made.values())
        assert bits.parts["mask"] == 2 * 8 * made["prune2:4"].extra["weight_mask"].nbytes
        assert min(bits.parts["outliers"], bits.parts["low_rank"]) > 0
