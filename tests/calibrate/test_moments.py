"""Sums over inputs, batch by batch."""

import numpy as np
import torch

from kbit.calibrate.moments import InputMoments
from kbit.tensor.rotation import reference_rotate


def test_moments_of_all_batches() -> None:
    x = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    rows = x.reshape(-1, 6).numpy().astype(np.float64)
    full, diagonal = InputMoments(6, full=True), InputMoments(6, full=False)
    for batch in x.split(3):
        full.add(batch)
        diagonal.add(batch.to(torch.float64))
    assert full.rows == diagonal.rows == 35
    np.testing.assert_allclose(full.hessian, rows.T @ rows / 35, rtol=1e-5, atol=1e-6)
    for moments in (full, diagonal):
        np.testing.assert_allclose(moments.importance, (rows**2).mean(0), rtol=1e-5)


def test_nothing_seen_prefers_nothing() -> None:
    full, diagonal = InputMoments(4, full=True), InputMoments(4, full=False)
    full.add(torch.zeros(0, 4))
    diagonal.add(torch.zeros(3, 4))
    for moments in (full, diagonal):
        assert moments.is_zero
        assert moments.importance.tolist() == [1, 1, 1, 1]
    assert not full.hessian.any()


def test_importance_of_rotated_inputs() -> None:
    x = torch.randn(40, 48, generator=torch.Generator().manual_seed(0)) * torch.arange(48)
    wanted = (reference_rotate(x.numpy()) ** 2).mean(0)
    full, diagonal = InputMoments(48, full=True, rotated=True), InputMoments(48, full=False, rotated=True)
    for batch in x.split(7):
        full.add(batch)
        diagonal.add(batch)
    np.testing.assert_allclose(diagonal.importance, wanted, rtol=1e-5)
    np.testing.assert_allclose(full.importance, wanted, rtol=1e-3)
    np.testing.assert_allclose(full.hessian, (x.T @ x / 40).numpy(), rtol=1e-4, atol=1e-3)
