"""Ways through the latents."""

from __future__ import annotations

import numpy as np
import pytest

from ancestral_client import paths


@pytest.mark.parametrize("curve", [paths.linear, paths.spherical])
def test_a_way_goes_from_end_to_end(curve: paths.Curve) -> None:
    begin, end = np.array([3, 0], np.float32), np.array([0, 3], np.float32)
    way = curve(begin, end, 5)
    assert way.dtype == np.float32
    assert np.allclose(way[[0, -1]], [begin, end], atol=1e-6)
    middle = 3 / np.sqrt(2) if curve is paths.spherical else 1.5
    assert np.allclose(way[2], middle)
    assert np.allclose(curve(begin, begin, 3), begin), "also where there is nothing to go"
    assert np.isfinite(curve(begin, -begin, 3)).all()
    assert np.isfinite(curve(0 * begin, end, 3)).all()


def test_a_plane_has_the_priors_quantiles_from_left_to_right_and_downwards() -> None:
    plane = paths.plane(3, (2, 0), 3).reshape(3, 3, 3)
    assert np.allclose(plane[0, :, 2], [-0.96742, 0, 0.96742], atol=1e-4)
    assert np.allclose(plane[:, 0, 0], [-0.96742, 0, 0.96742], atol=1e-4)
    assert not plane[..., 1].any()
