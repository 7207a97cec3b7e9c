"""A mixture of logistics, rounded to levels: what is scored is what is drawn, to the ends of the scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.values import MIXTURE, LogisticMixture

# A scale of every kind: fewer levels than steps, no square, a square, bytes.
LEVELS = (3, 5, 16, 17, 200, 256)


def probabilities(mixture: LogisticMixture, parameters: Tensor) -> Tensor:
    """p(level) [...,K] of parameters [...,P]."""
    every = torch.arange(mixture.levels).expand(*parameters.shape[:-1], -1)
    return mixture.log_prob(parameters.unsqueeze(-2), every).exp()


def some(mixture: LogisticMixture, count: int = 8, size: float = 2.0) -> Tensor:
    """Parameters [count,P], of which the first are zeros."""
    generator = torch.Generator().manual_seed(mixture.levels)
    parameters = size * torch.randn(count, mixture.parameters, generator=generator)
    parameters[0] = 0
    return parameters


@pytest.mark.parametrize("levels", LEVELS)
def test_scores_are_the_increments_of_the_textbook_distribution_function(levels: int) -> None:
    """With the tails at both ends: computed in float64 from the logistic's definition."""
    mixture = LogisticMixture(levels, 4)
    parameters = some(mixture)
    logits, positions, rates = (value.double() for value in mixture.split(parameters))
    edges = torch.arange(levels - 1) + 0.5
    within = torch.sigmoid(torch.log1p(rates.exp()).unsqueeze(-1) * (edges - positions.unsqueeze(-1)))
    cdf = (torch.softmax(logits, -1).unsqueeze(-1) * within).sum(-2)  # [N,K-1]
    expected = torch.diff(cdf, prepend=torch.zeros(8, 1), append=torch.ones(8, 1))
    found = probabilities(mixture, parameters).double()
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(found.sum(-1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_level_has_as_many_uniforms_as_its_score_says(levels: int) -> None:
    mixture, count = LogisticMixture(levels, 3), 50_000
    parameters = some(mixture)
    uniforms = ((torch.arange(count) + 0.5) / count).expand(8, -1)
    drawn = mixture.draw(parameters.unsqueeze(-2).expand(-1, count, -1), uniforms)
    assert (torch.diff(drawn, dim=-1) >= 0).all()  # an inverse distribution function
    shares = torch.stack([torch.bincount(row, minlength=levels) for row in drawn]) / count
    torch.testing.assert_close(shares, probabilities(mixture, parameters), rtol=0, atol=1.5 / count)


def test_the_ends_of_the_uniforms_stay_on_the_scale() -> None:
    for levels in LEVELS:
        mixture = LogisticMixture(levels, 3)
        parameters = some(mixture, size=30)
        for uniform in (0.0, 1 - 2.0**-24):
            drawn = mixture.draw(parameters, torch.full((8,), uniform))
            assert drawn.min() >= 0
            assert drawn.max() < levels


def test_temperature_zero_takes_the_centre_of_the_weightiest_logistic() -> None:
    mixture = LogisticMixture(256, 3)
    parameters = some(mixture)[1:]
    logits, positions, _ = mixture.split(parameters)
    centres = positions.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1)
    for uniform in (0.0, 0.5, 1 - 2.0**-24):
        cold = mixture.draw(parameters, torch.full((7,), uniform), torch.zeros(7))
        assert torch.equal(cold, centres.round().clamp(0, 255).long())
    # Between, the spread grows with the temperature.
    uniforms = ((torch.arange(1000) + 0.5) / 1000).expand(7, -1)
    spreads = [
        mixture.draw(parameters.unsqueeze(1).expand(-1, 1000, -1), uniforms, temperature).float().std(-1)
        for temperature in (0.1, 0.5, 1.0)
    ]
    assert (spreads[0] <= spreads[1]).all()
    assert (spreads[1] <= spreads[2]).all()


@pytest.mark.parametrize("levels", LEVELS)
def test_moments(levels: int) -> None:
    """Closed forms are of the mixture before it is rounded: the mean is near it where it is broad, and always within
    half a level; the variance is a twelfth larger once it is rounded, as a uniform's of one level is.
    """
    mixture = LogisticMixture(levels, 3)
    every = torch.arange(levels, dtype=torch.float64)
    for size, mean_bound, variance_bound in ((1.0, 0.1, 0.2), (30.0, 0.5001, None)):
        parameters = some(mixture, size=size)
        shares = probabilities(mixture, parameters).double()
        exact = (shares * every).sum(-1)
        spread = (shares * (every - exact.unsqueeze(-1)) ** 2).sum(-1)
        mean, variance = mixture.moments(parameters)
        assert (mean - exact).abs().max() < mean_bound
        assert (variance >= 0).all()
        if variance_bound:
            assert ((variance - spread).abs() <= variance_bound + 1e-3 * spread).all()
        assert (variance.sqrt() <= spread.sqrt() + 1).all()


def test_moments_by_quadrature() -> None:
    """Of one logistic anywhere, as broad and as sharp as any, against its own density on a fine grid."""
    mixture = LogisticMixture(256, 1)
    t = torch.linspace(0, 255, 255_001, dtype=torch.float64)
    for centre in (-1.5, -1.0, -0.3, 0.0, 0.999, 1.2):
        for rate in (-3.0, 0.0, 4.0, 8.0):
            parameters = torch.tensor([[0.0, centre, rate]])
            _, position, raw = (value.double() for value in mixture.split(parameters))
            survival = torch.sigmoid(torch.log1p(raw.exp()) * (position - t))[0]
            mean = torch.trapezoid(survival, t)
            square = torch.trapezoid(2 * t * survival, t)
            found, variance = mixture.moments(parameters)
            assert found.item() == pytest.approx(mean.item(), abs=1e-2)
            assert variance.item() == pytest.approx((square - mean**2).item(), rel=2e-3, abs=2e-2)


def test_no_parameters_make_a_score_or_its_gradient_infinite() -> None:
    mixture = LogisticMixture(256, 5)
    parameters = some(mixture, 300, size=1000).requires_grad_()
    levels = torch.arange(300) % 256
    scores = mixture.log_prob(parameters, levels)
    (gradient,) = torch.autograd.grad(scores.sum(), parameters)
    assert torch.isfinite(scores).all()
    assert torch.isfinite(gradient).all()
    assert scores.min() < -10_000  # sure, and wrong


def test_too_few_levels() -> None:
    with pytest.raises(UsageError, match=f"a {MIXTURE} is for images of 3 levels or more, not 2: use bernoulli or cat"):
        LogisticMixture(2, 5)
