"""The VAE: its ELBO by hand and by Monte Carlo, its graphs against the model, in every likelihood."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import verify_model
from ancestral_exporter.bundle.export import export_graphs, graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds, original_answers
from ancestral_exporter.bundle.runtime import open_session, run_role
from ancestral_exporter.models.base import ImageShape, OneShotGraph
from ancestral_exporter.models.likelihoods import normals
from ancestral_exporter.models.quantise import from_levels
from ancestral_exporter.models.vae import VAE, VAESettings


def make(name: str = "categorical", shape: ImageShape | None = None, latent_size: int = 3) -> VAE:
    torch.manual_seed(0)
    shape = shape or ImageShape(8, 8, 1, 2 if name == "bernoulli" else 17)
    settings = VAESettings(latent_size=latent_size, channels=4, features=12, blocks=1, likelihood=name)
    return VAE(shape, settings).eval()


def some_images(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (count, shape.height, shape.width, shape.channels)
    return from_levels(torch.randint(0, shape.levels, size, generator=generator), shape.levels)


def test_divergence_by_hand() -> None:
    """With q = N((1, 0, -2), diag(1, e, e^-1)): KL = (1 + 0 + 4 + 1 + e + 1/e - 3 - 0) / 2."""
    model = make()
    with torch.no_grad():
        model.posterior.weight.zero_()
        model.posterior.bias.copy_(torch.tensor([1.0, 0.0, -2.0, 0.0, 1.0, -1.0]))
        terms = model.negative_log_likelihood(some_images(model.image, 2))
    expected = (1 + 4 + 1 + math.e + 1 / math.e - 3) / 2
    torch.testing.assert_close(terms["kl"], torch.full((2,), expected))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


def test_elbo_by_monte_carlo() -> None:
    """E_q[log p(x|z) + log p(z) - log q(z|x)] with torch's own densities is the mean of our estimates."""
    model, count = make(), 4000
    image = some_images(model.image, 1)
    with torch.no_grad():
        mean, log_variance = model.encode(image)
        noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(3))
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        z = mean + (0.5 * log_variance).exp() * noise
        logits = model.decoder(z)
        levels = torch.round(image.float() * 16 / 255).long().expand(count, -1, -1, -1)
        log_likelihood = torch.distributions.Categorical(logits=logits).log_prob(levels).flatten(1).sum(1)
        log_prior = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
        by_hand = (log_likelihood + log_prior - q.log_prob(z).sum(1)).mean()
        ours, kl = model.evidence(image.expand(count, -1, -1, -1), noise)
        weights = model.log_weight(image.expand(count, -1, -1, -1), noise)
    torch.testing.assert_close((ours - kl.sum(1)).mean(), by_hand, atol=0.1, rtol=0)
    torch.testing.assert_close(weights.mean(), by_hand, atol=1e-3, rtol=0)


def test_elbo_is_below_the_likelihood() -> None:
    """With one latent dimension log p(x) is an integral that a grid computes."""
    model = make(latent_size=1)
    images = some_images(model.image, 3)
    z = torch.linspace(-8, 8, 4001)
    with torch.no_grad():
        logits = model.decoder(z[:, None])
        prior = torch.distributions.Normal(0, 1).log_prob(z)
        for image in images:
            repeated = image.expand(len(z), -1, -1, -1)
            log_px = torch.logsumexp(model.pixels.log_prob(logits, repeated) + prior + math.log(16 / 4000), 0)
            terms = model.negative_log_likelihood(image.expand(500, -1, -1, -1))
            assert -terms["loss"].mean() < log_px
            assert log_px < 0
            # The bound of many draws rises to the likelihood.
            noise = torch.randn(20_000, 1)
            weights = model.log_weight(image.expand(len(noise), -1, -1, -1), noise)
            assert (weights.logsumexp(0) - math.log(len(noise)) - log_px).abs() < 0.1
            assert weights.mean() < log_px


def test_the_bound_of_several_draws_is_the_log_of_their_mean_weight() -> None:
    model = make()
    images, noise = some_images(model.image, 4), torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        each = torch.stack([model.log_weight(images, draw) for draw in noise])
        expected = each.double().exp().mean(0).log().float()
        torch.testing.assert_close(model.importance_weighted_bound(images, noise), expected)


def test_an_importance_weighted_training_maximises_the_bound_of_its_draws() -> None:
    image = make().image
    settings = VAESettings(latent_size=3, channels=4, features=12, blocks=0, importance_samples=5)
    model = VAE(image, settings).eval()
    images, labels = some_images(image, 4), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        torch.manual_seed(2)
        terms = model.training_terms(images, labels, 0.5)
        torch.manual_seed(2)
        bound = model.importance_weighted_bound(images, torch.randn(5, 4, 3))
        torch.testing.assert_close(terms["objective"], -bound)
        # More draws, a higher bound than the ELBO's on average.
        assert bound.mean() > -model.negative_log_likelihood(images)["loss"].mean()


@pytest.mark.parametrize("draws", [1, 3])
def test_in_training_the_encoder_sees_a_view_and_the_decoder_draws_the_image(draws: int) -> None:
    image = make().image
    settings = VAESettings(
        latent_size=3, channels=4, features=12, blocks=0, importance_samples=draws, view_shift=2, view_rotation=30
    )
    model = VAE(image, settings).eval()
    images, labels = some_images(image, 4), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        torch.manual_seed(2)
        found = model.training_terms(images, labels, 1.0)["objective"]
        torch.manual_seed(2)
        view = model.view.of(images)
        assert not torch.equal(view, images)
        mean, log_variance = model.encode(view)
        noise = torch.randn(*((draws,) if draws > 1 else ()), 4, 3).view(draws, 4, 3)
        z = mean + torch.exp(0.5 * log_variance) * noise
        drawn = torch.stack([model.pixels.log_prob(model.decoder(part), images) for part in z])
        if draws == 1:
            expected = drawn[0] - 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        else:
            weights = drawn + 0.5 * (noise**2 + log_variance - z**2).sum(2)
            expected = weights.logsumexp(0) - math.log(draws)
        torch.testing.assert_close(found, -expected)


@pytest.mark.parametrize("setting", [{"beta": 0.5}, {"free_bits": 0.1}, {"kl_warmup_fraction": 0.1}])
def test_an_importance_weighted_training_has_no_weight_of_the_divergence(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="importance_samples is 5: above 1 the KL has no weight of its own"):
        VAESettings(latent_size=3, importance_samples=5, **setting)


def test_exported_graphs_equal_the_model(tmp_path: Path) -> None:
    model = make()
    export_graphs(model.graphs(), tmp_path)
    verify_model(model, tmp_path).raise_if_failed()


@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_scores_of_extreme_logits_are_finite(name: str, tmp_path: Path) -> None:
    """A decoder that is very sure, and wrong at half the pixels: log(sigmoid(x)) or log(softmax(x)) would be -inf."""
    model = make(name)
    signs = torch.randint(0, 2, model.decoder.bias.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        model.decoder.bias.copy_(300 * signs)
        assert model.decoder(torch.randn(8, 3)).abs().min() > 100
    graph = next(graph for graph in model.graphs() if graph.file == "score.onnx")
    export_graphs([graph], tmp_path)
    feeds = make_feeds(graph_roles(graph)[0], Subjects(some_images(model.image, 8).numpy(), None, 0))
    expected = original_answers(graph, graph_roles(graph)[0], feeds)["log_weight"]
    found = run_role(open_session(tmp_path / graph.file), graph_roles(graph)[0], feeds, 8)["log_weight"]
    assert np.isfinite(expected).all()
    assert expected.max() < -64 * 100
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_odd_sizes_and_colours(tmp_path: Path) -> None:
    model = make(shape=ImageShape(7, 10, 3, 5))
    images = some_images(model.image, 4)
    assert model.negative_log_likelihood(images)["loss"].shape == (4,)
    graph = next(graph for graph in model.graphs() if graph.file == "sample.onnx")
    assert isinstance(graph, OneShotGraph)
    export_graphs([graph], tmp_path)
    uniforms = uniforms_of_range(0, 0, 2, tuple(graph.roles[0].inputs[0].shape))
    feeds = {"uniforms": uniforms, "temperature": np.ones(2, np.float32)}
    drawn = run_role(open_session(tmp_path / "sample.onnx"), graph.roles[0], feeds, 7)["image"]
    assert drawn.shape == (2, 7, 10, 3)
    assert set(np.unique(drawn)) <= {0, 64, 128, 191, 255}


def test_roles_and_their_meanings() -> None:
    roles = {role.name: role for graph in make().graphs() for role in graph_roles(graph)}
    assert set(roles) == {"encode", "decode", "sample", "score", "features"}
    assert roles["score"].likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND
    assert [out.meaning for out in roles["encode"].outputs] == [
        bundle_pb2.MEANING_MEAN,
        bundle_pb2.MEANING_LOG_VARIANCE,
    ]
    assert [out.meaning for out in roles["score"].outputs] == [bundle_pb2.MEANING_LOG_WEIGHT]
    # Two uniforms for each latent dimension, one for each pixel.
    assert list(roles["sample"].inputs[0].shape) == [2 * 3 + 64]
    assert list(roles["features"].outputs[0].shape) == [12]


def test_graphs_do_what_their_roles_say() -> None:
    model = make()
    modules = {graph.file: graph.module for graph in model.graphs() if isinstance(graph, OneShotGraph)}
    images = some_images(model.image, 5)
    noise = torch.from_numpy(uniforms_of_range(1, 0, 5, (2, 3)))
    with torch.no_grad():
        mean, log_variance = modules["encode.onnx"](images)
        z = mean + (0.5 * log_variance).exp() * normals(noise)
        (score,) = modules["score.onnx"](images, noise)
        torch.testing.assert_close(score, model.log_weight(images, normals(noise)))
        (features,) = modules["features.onnx"](images)
        torch.testing.assert_close(model.posterior(features).chunk(2, 1)[0], mean)
        decoded, pixel_mean, pixel_variance = modules["decode.onnx"](z)
        assert (decoded.float() - pixel_mean).abs().max() <= 0.5
        torch.testing.assert_close(pixel_mean, model.pixels.moments(model.decoder(z))[0])
        assert pixel_variance.min() > 0
        # At temperature 0 only z matters.
        uniforms = torch.from_numpy(uniforms_of_range(2, 0, 1, (70,))).repeat(2, 1)
        uniforms[1, 6:] = 1 - uniforms[1, 6:] - 2**-24
        (cold,) = modules["sample.onnx"](uniforms, torch.zeros(2))
        assert (cold[0] == cold[1]).all()
        (warm,) = modules["sample.onnx"](uniforms, torch.ones(2))
        assert (warm[0] != warm[1]).any()


def test_features_ignore_the_image_between_levels() -> None:
    """Graphs quantise: a byte near a level is that level."""
    model = make()
    images = some_images(model.image, 2)
    nudged = torch.where(images < 200, images + 3, images - 3)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(nudged), model.encoder(images), rtol=0, atol=0)
