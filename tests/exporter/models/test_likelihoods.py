"""p(x|z): normalised, sampled as it is scored, and greedy at temperature 0. Normals from uniforms are normal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ancestral.bundle.noise import uniforms_of_range
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.likelihoods import (
    Gaussian,
    MixtureOfLogistics,
    PixelLikelihood,
    likelihood,
    nearest_bytes,
    normals,
)
from ancestral_exporter.models.quantise import from_levels


def of(name: str, levels: int) -> PixelLikelihood:
    return likelihood(name, ImageShape(2, 2, 1, levels))


def parameters(name: str, levels: int, count: int = 1) -> Tensor:
    """Random parameters [count,2,2,1,P]: the same for every image."""
    wanted = of(name, levels).parameters_per_value
    one = torch.randn(1, 2, 2, 1, wanted, generator=torch.Generator().manual_seed(1))
    return one.expand(count, -1, -1, -1, -1)


def constant_images(levels: int) -> Tensor:
    """Image k [K,2,2,1] has level k everywhere."""
    return from_levels(torch.arange(levels), levels).view(-1, 1, 1, 1).expand(-1, 2, 2, 1).contiguous()


def level_probabilities(name: str, levels: int) -> Tensor:
    """p(level k) [K,2,2] by the likelihood's own log_prob, one pixel at a time."""
    pixels = of(name, levels)
    found = torch.zeros(levels, 2, 2)
    for row in range(2):
        for column in range(2):
            one = parameters(name, levels, levels)[:, row : row + 1, column : column + 1]
            found[:, row, column] = pixels.log_prob(one, constant_images(levels)[:, :1, :1]).exp()
    return found


@pytest.mark.parametrize(
    ("name", "levels"), [("categorical", 17), ("categorical", 2), ("bernoulli", 2), ("mixture-of-logistics", 17)]
)
class TestDiscrete:
    def test_probabilities_sum_to_one(self, name: str, levels: int) -> None:
        torch.testing.assert_close(level_probabilities(name, levels).sum(0), torch.ones(2, 2))

    def test_pixels_add_up(self, name: str, levels: int) -> None:
        images = constant_images(levels)
        whole = of(name, levels).log_prob(parameters(name, levels, levels), images)
        torch.testing.assert_close(whole, level_probabilities(name, levels).log().sum((1, 2)))

    def test_samples_have_these_frequencies(self, name: str, levels: int) -> None:
        count = 20_000
        uniforms = torch.from_numpy(np.random.default_rng(0).random((count, 2, 2, 1), np.float32))
        images = of(name, levels).sample(parameters(name, levels, count), uniforms, torch.ones(count))
        seen = torch.stack([(images == byte).float().mean(0)[..., 0] for byte in constant_images(levels)[:, 0, 0, 0]])
        torch.testing.assert_close(seen.sum(0), torch.ones(2, 2))
        torch.testing.assert_close(seen, level_probabilities(name, levels), atol=0.015, rtol=0)

    def test_mean_is_the_nearest_byte(self, name: str, levels: int) -> None:
        expected = (level_probabilities(name, levels) * constant_images(levels)[:, :1, :1, 0]).sum(0)
        found = nearest_bytes(of(name, levels).moments(parameters(name, levels))[0])[0, ..., 0]
        assert found.dtype == torch.uint8
        # A mixture's mean is of intensities that are not rounded to levels yet.
        assert (found.float() - expected).abs().max() <= (0.6 if name == "mixture-of-logistics" else 0.501)


@pytest.mark.parametrize(("name", "levels"), [("categorical", 17), ("categorical", 2), ("bernoulli", 2)])
def test_moments_are_those_of_the_levels(name: str, levels: int) -> None:
    pixels, values = of(name, levels), constant_images(levels)[:, :1, :1, 0].float()
    probabilities = level_probabilities(name, levels)
    expected = (probabilities * values).sum(0)
    mean, variance = (found[0, ..., 0] for found in pixels.moments(parameters(name, levels)))
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, (probabilities * (values - expected) ** 2).sum(0))
    # Where a pixel is all but certain, any other level having a probability of e^-20, the variance keeps its digits.
    given = torch.zeros(1, 2, 2, 1, pixels.parameters_per_value)
    given[..., -1] = 20
    certain = math.exp(-20) * ((255 - values[:-1].double()) ** 2).sum().item()
    assert pixels.moments(given)[1].flatten().tolist() == [pytest.approx(certain, rel=1e-3)] * 4


@pytest.mark.parametrize(("name", "levels"), [("categorical", 17), ("categorical", 2), ("bernoulli", 2)])
def test_temperature_zero_is_the_most_likely_level(name: str, levels: int) -> None:
    uniforms = torch.rand(50, 2, 2, 1, generator=torch.Generator().manual_seed(2))
    images = of(name, levels).sample(parameters(name, levels, 50), uniforms, torch.zeros(50))
    best = from_levels(level_probabilities(name, levels).argmax(0), levels)
    assert (images[..., 0] == best).all()


def test_colours_of_a_mixture_are_drawn_as_they_are_scored_jointly() -> None:
    """Green depends on red, blue on both, and each has one uniform."""
    levels, count = 4, 50_000
    pixels = likelihood("mixture-of-logistics", ImageShape(1, 1, 3, levels), 2)
    given = 2 * torch.randn(1, 1, 1, 3, pixels.parameters_per_value, generator=torch.Generator().manual_seed(3))
    every = torch.cartesian_prod(*[torch.arange(levels)] * 3)
    images = from_levels(every, levels).view(-1, 1, 1, 3)
    expected = pixels.log_prob(given.expand(len(images), -1, -1, -1, -1), images).exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((count, 1, 1, 3), np.float32))
    drawn = pixels.sample(given.expand(count, -1, -1, -1, -1), uniforms, torch.ones(count))
    seen = (drawn.view(-1, 1, 3) == images.view(1, -1, 3)).all(-1).float().mean(0)
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)
    # Not independent: the joint probabilities are no product of the channels' own.
    cube = expected.view(levels, levels, levels)
    alone = torch.einsum("i,j,k->ijk", cube.sum((1, 2)), cube.sum((0, 2)), cube.sum((0, 1)))
    assert (cube - alone).abs().max() > 0.02
    mean = (expected[:, None] * images.view(-1, 3)).sum(0)
    assert (pixels.moments(given)[0].view(3) - mean).abs().max() < 0.5 * 255 / (levels - 1)


def test_moments_of_colours_are_those_of_samples() -> None:
    """Blue varies with red and green, beside what it varies by itself."""
    pixels, count = likelihood("mixture-of-logistics", ImageShape(1, 1, 3, 256), 1), 20_000
    assert isinstance(pixels, MixtureOfLogistics)
    # Logit, centre, rate, and the slopes on red and on green.
    given = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 1, 0.8, 0], [0, 0, 2, -1.5, 2.0]]).view(1, 1, 1, 3, 5)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((count, 1, 1, 3), np.float32))
    drawn = pixels.sample(given.expand(count, -1, -1, -1, -1), uniforms, torch.ones(count)).float()
    mean, variance = pixels.moments(given)
    torch.testing.assert_close(mean[0], drawn.mean(0), rtol=0, atol=1)
    torch.testing.assert_close(variance[0], drawn.var(0), rtol=0.06, atol=0)


def test_gaussian_is_the_textbook_density() -> None:
    pixels = Gaussian(17)
    given = parameters("gaussian", 17, 17)
    images = constant_images(17)
    mean, log_variance = pixels.split(given)
    by_torch = torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(images / 255)
    # 17 levels are evenly spaced; their bytes are rounded, by half a byte at most.
    torch.testing.assert_close(pixels.log_prob(given, images), by_torch.flatten(1).sum(1), atol=0.05, rtol=0)
    assert not pixels.discrete


def test_gaussian_variance_has_a_floor() -> None:
    _, log_variance = Gaussian(17).split(torch.tensor([0.5, -1e4]).view(1, 1, 1, 1, 2))
    assert log_variance.item() == pytest.approx(Gaussian.MIN_LOG_VARIANCE)


def test_gaussian_samples() -> None:
    pixels, count = Gaussian(256), 20_000
    given = torch.tensor([0.5, math.log(0.01)]).expand(count, 1, 1, 1, 2)  # mean 0.5, deviation about 0.1
    deviation = float((0.5 * pixels.split(given)[1][0]).exp())
    uniforms = torch.rand(count, 2, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x = pixels.sample(given, uniforms, torch.ones(count)).double() / 255
    assert x.mean().item() == pytest.approx(0.5, abs=0.003)
    assert x.std().item() == pytest.approx(deviation, rel=0.03)
    assert (pixels.sample(given, uniforms, torch.zeros(count)) == 128).all()
    mean, variance = pixels.moments(given[:1])
    assert mean.item() == pytest.approx(127.5)
    assert nearest_bytes(mean).item() == 128
    assert variance.item() == pytest.approx((255 * deviation) ** 2)


def test_normals_are_standard_and_finite() -> None:
    uniforms = torch.from_numpy(uniforms_of_range(0, 0, 1, (2, 200_000)))
    drawn = normals(uniforms)[0].double()
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.var().item() == pytest.approx(1, abs=0.01)
    assert (drawn.abs() < 1.959964).double().mean().item() == pytest.approx(0.95, abs=0.002)
    edges = torch.tensor([[[0.0, 1 - 2**-24], [0.0, 0.0]]])
    torch.testing.assert_close(normals(edges), torch.tensor([[0.0, math.sqrt(48 * math.log(2))]]))


def test_wrong_requests() -> None:
    with pytest.raises(
        UsageError, match="unknown likelihood 'poisson'; there are: bernoulli, categorical, gaussian, mix"
    ):
        of("poisson", 17)
    with pytest.raises(UsageError, match="2 levels, not 17"):
        of("bernoulli", 17)
    with pytest.raises(UsageError, match="3 levels or more, not 2"):
        of("mixture-of-logistics", 2)
