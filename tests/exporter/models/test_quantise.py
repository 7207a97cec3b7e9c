from __future__ import annotations

import numpy as np
import pytest
import torch

from ancestral_exporter.models.quantise import from_levels, inverse_cdf, to_levels


@pytest.mark.parametrize("levels", range(2, 257))
def test_bytes_of_levels_are_rounded_and_come_back(levels: int) -> None:
    every = torch.arange(levels)
    wanted = [round(255 * k / (levels - 1)) for k in range(levels)]
    assert from_levels(every, levels).tolist() == wanted
    assert torch.equal(to_levels(from_levels(every, levels), levels), every)
    # Bytes between levels go to the nearest, on the exact scale 255 k / (K - 1).
    exact = np.arange(levels) * 255 / (levels - 1)
    nearest = np.abs(np.arange(256)[:, None] - exact).argmin(1)
    assert to_levels(torch.arange(256, dtype=torch.uint8), levels).tolist() == nearest.tolist()


def test_inverse_cdf_draws_with_the_right_frequencies() -> None:
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0])
    uniforms = (torch.arange(100_000) + 0.5) / 100_000
    for temperature in (1.0, 0.7, 3.0):
        drawn = inverse_cdf(logits.expand(100_000, 4), uniforms, temperature)
        shares = torch.bincount(drawn, minlength=4) / 100_000
        torch.testing.assert_close(shares, torch.softmax(logits / temperature, 0), atol=2e-5, rtol=0)


def test_temperature_zero_takes_the_best_and_nothing_is_nan() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1000, 5) * 50
    for temperature in (0.0, 1e-38, 1e-10):
        drawn = inverse_cdf(logits, torch.rand(1000), torch.full((1000,), temperature))
        assert torch.equal(drawn, logits.argmax(-1))


def test_impossible_levels_are_not_drawn_at_the_ends() -> None:
    logits = torch.tensor([[-200.0, 0.0, 0.0, -200.0]])
    assert inverse_cdf(logits, torch.tensor([0.0])).item() == 1
    assert inverse_cdf(logits, torch.tensor([1 - 2.0**-24])).item() == 2


def test_temperature_broadcasts_against_uniforms() -> None:
    logits = torch.randn(3, 4, 5)
    uniforms = torch.rand(3, 4)
    temperature = torch.tensor([0.0, 1.0, 2.0])
    drawn = inverse_cdf(logits, uniforms, temperature[:, None])
    for i in range(3):
        assert torch.equal(drawn[i], inverse_cdf(logits[i], uniforms[i], temperature[i]))
