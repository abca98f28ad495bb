"""Codebooks for Gaussian weights: part of the file format, and as good as their page says."""

import hashlib

import numpy as np
import pytest

from kbit.core.data_types import VECTOR_BITS
from kbit.core.errors import SchemeError
from kbit.core.scheme import Scheme
from kbit.grids import is_data_dependent, levels_for
from kbit.grids.gaussian_vectors import gaussian_codebook

#: (dims, bits) → first 16 digits of the SHA-256 of the codebook, and mean squared error a weight
KNOWN = {
    (2, 2): ("b1954ddec3dc6221", 0.363),
    (2, 3): ("9303d6d430923b1c", 0.201),
    (2, 4): ("4d171547cccc28bd", 0.1075),
    (2, 5): ("44164035f97181e8", 0.057),
    (2, 6): ("437b102aadfd1a01", 0.0298),
    (3, 3): ("45ecebeebde2ddad", 0.3558),
    (3, 6): ("fdc1c7bedbf41e28", 0.101),
}
ALL = [(dims, bits) for dims, all_bits in VECTOR_BITS.items() for bits in all_bits]


def nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    return np.square(vectors[:, None, :] - codebook).sum(-1).argmin(1)


@pytest.mark.parametrize(("dims", "bits"), ALL)
def test_codebooks_never_change(dims: int, bits: int) -> None:
    codebook = gaussian_codebook(bits, dims)
    assert codebook.shape == (1 << bits, dims)
    assert codebook.dtype == np.float32
    assert hashlib.sha256(codebook.astype("<f4").tobytes()).hexdigest()[:16] == KNOWN[dims, bits][0]


@pytest.mark.parametrize(("dims", "bits"), ALL)
def test_the_error_is_the_one_of_the_page_and_hardly_falls_any_more(dims: int, bits: int) -> None:
    codebook, vectors = gaussian_codebook(bits, dims), np.random.default_rng(3).standard_normal((40_000, dims)).astype(np.float32)
    codes = nearest(vectors, codebook)
    error = np.square(vectors - codebook[codes]).mean()
    assert error == pytest.approx(KNOWN[dims, bits][1], rel=0.03)
    means = np.stack([np.bincount(codes, vectors[:, c], len(codebook)) for c in range(dims)], axis=1)
    moved = (means / np.maximum(np.bincount(codes, minlength=len(codebook)), 1)[:, None]).astype(np.float32)
    assert np.square(vectors - moved[codes]).mean() > 0.98 * error


@pytest.mark.parametrize(("dims", "bits"), ALL)
def test_components_are_distinct_multiples_that_fast_mode_holds_exactly(dims: int, bits: int) -> None:
    components = gaussian_codebook(bits, dims) * 32
    assert np.array_equal(components, np.rint(components))
    assert np.ptp(components) <= 255
    assert len(np.unique(components, axis=0)) == 1 << bits


def test_the_scheme_leads_to_the_codebook() -> None:
    assert np.array_equal(levels_for(Scheme.parse("nvq2d3")), gaussian_codebook(6, 3))
    assert not is_data_dependent(Scheme.parse("nvq2d3"))
    assert is_data_dependent(Scheme.parse("vq2d3"))
    with pytest.raises(SchemeError, match="fitted together with scales"):
        levels_for(Scheme.parse("vq2d3"), np.ones(5, np.float32))
    with pytest.raises(SchemeError, match=r"\(4, 8\)"):
        gaussian_codebook(8, 4)
