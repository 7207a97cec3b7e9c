"""Score with many draws, Decode with its moments, Encode with its draw: what is served against PyTorch's answers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from ancestral.bundle import noise
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_client import Client, InvalidArgument
from ancestral_exporter.models.vae import VAE
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from openinference import ask, infer, violation, with_parameters
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import tensor

OLD = Path(__file__).parents[1] / "bundles" / "vae-0.2.0"
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
Stub = inference_service_pb2_grpc.InferenceServiceStub


@dataclass
class Served:
    """The bundle `vae` and one of version 0.2.0, served beside the model that the first was made of."""

    model: VAE
    server: ServerProcess
    client: Client
    stub: Stub
    infer: oip_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def served(vae_model: VAE, vae: Path, toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = tmp_path_factory.mktemp("models")
    for folder in (vae, OLD, toy_models / "tally"):
        shutil.copytree(folder, models / folder.name)
    with (
        ServerProcess(models, *PATIENT) as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Served(vae_model, server, client, Stub(channel), oip_grpc.GRPCInferenceServiceStub(channel))


def weights(model: VAE, images: np.ndarray[Any, Any], draws: int, seed: int = 0) -> torch.Tensor:
    """ln p(x,z)/q(z|x) [N,k] by PyTorch, image i with the noise of stream (seed, i)."""
    found = []
    with torch.no_grad():
        for i, image in enumerate(images):
            drawn = noise.normals(noise.uniforms(seed, i, (draws, 2, model.latent_size)))
            same = torch.from_numpy(image).expand(draws, -1, -1, -1)
            found.append(model.log_weight(same, torch.from_numpy(drawn).float()).double())
    return torch.stack(found)


def test_the_bound_rises_with_its_draws_and_is_pytorchs(served: Served) -> None:
    images, bounds = IMAGES[:5], {}
    of_each = weights(served.model, images, 1000, seed=3)
    for draws in (1, 50, 1000):
        scores = served.client.score("vae", images, draws=draws, seed=3)
        expected = of_each[:, :draws].logsumexp(1) - math.log(draws)
        np.testing.assert_allclose(scores.log_likelihood, expected.numpy(), atol=1e-3, rtol=0)
        np.testing.assert_allclose(scores.bits_per_dim, -scores.log_likelihood / (64 * math.log(2)), rtol=1e-6)
        assert (scores.draws, scores.exact) == (draws, False)
        # The mean of the bounds that these 1,000 draws make in groups of so many.
        groups = of_each.view(5, -1, draws).logsumexp(2) - math.log(draws)
        bounds[draws] = groups.mean(1).numpy()
    assert (bounds[1] < bounds[50] - 0.001).all()
    assert (bounds[50] < bounds[1000]).all()
    np.testing.assert_allclose(bounds[1000], scores.log_likelihood, atol=1e-3, rtol=0)


def test_bounds_of_one_draw_average_to_the_elbo(served: Served) -> None:
    image, count = IMAGES[:1], 500
    scores = served.client.score("vae", np.repeat(image, count, axis=0)).log_likelihood
    with torch.no_grad():
        repeated = torch.from_numpy(image).expand(5000, -1, -1, -1)
        elbos = -served.model.negative_log_likelihood(repeated)["loss"]
    error = math.sqrt(scores.var() / count + elbos.var().item() / 5000)
    assert scores.mean() == pytest.approx(elbos.mean().item(), abs=5 * error)


def test_a_bound_is_the_same_in_any_company(served: Served) -> None:
    # 140 rows: several runs, cut in the middle of an image.
    together = served.client.score("vae", IMAGES, draws=7, seed=5).log_likelihood
    apart = [
        served.client.score("vae", image, draws=7, seed=5, first_index=i).log_likelihood[0]
        for i, image in enumerate(IMAGES)
    ]
    assert together.tolist() == apart
    for size in (None, 3):
        with served.client.score_stream("vae", IMAGES, draws=7, seed=5, message_size=size) as parts:
            assert np.concatenate([part.log_likelihood for part in parts]).tolist() == together.tolist()
    one = served.client.score("vae", IMAGES, draws=1, seed=5).log_likelihood
    assert one.tolist() == served.client.score("vae", IMAGES, seed=5).log_likelihood.tolist()


def test_draws_that_nobody_waits_for_are_not_made(served: Served) -> None:
    images = np.repeat(IMAGES, 10, axis=0)
    request = pb.ScoreRequest(model="vae", images=tensor(images), draws=5000)

    def made() -> int:
        asked = oip.ModelStatisticsRequest(name="vae.score")
        return int(served.infer.ModelStatistics(asked, timeout=PATIENCE).model_stats[0].execution_count)

    before = made()
    call = served.stub.Score.future(request, timeout=3600)
    until(lambda: made() > before)
    call.cancel()
    assert call.cancelled()
    # The lane goes on at once with others.
    served.client.score("vae", IMAGES[:1])
    assert made() - before < 200 * 5000 / 64


def test_decode_gives_the_moments_of_pixels(served: Served) -> None:
    latents = np.random.default_rng(1).standard_normal((70, 4)).astype(np.float32)
    found = served.client.decode("vae", latents, include_variance=True)
    with torch.no_grad():
        mean, variance = served.model.pixels.moments(served.model.decoder(torch.from_numpy(latents)))
    assert found.mean is not None
    assert found.variance is not None
    np.testing.assert_allclose(found.mean, mean.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.variance, variance.numpy(), rtol=1e-3)
    assert np.abs(found.images - found.mean).max() <= 0.5001
    plain = served.client.decode("vae", latents)
    assert (plain.mean, plain.variance) == (None, None)
    assert np.array_equal(plain.images, found.images)


def test_a_draw_is_that_of_the_definition(served: Served) -> None:
    found = served.client.encode("vae", IMAGES, draw_seed=7, first_index=3)
    assert found.log_variance is not None
    assert found.latent is not None
    normals = noise.normals(noise.uniforms_of_range(7, 3, len(IMAGES), (2, 4)))
    by_hand = found.mean + np.exp(found.log_variance.astype(np.float64) / 2) * normals
    assert np.array_equal(found.latent, by_hand.astype(np.float32))
    whole = served.client.encode("vae", IMAGES, draw_seed=7).latent
    with served.client.encode_stream("vae", IMAGES, draw_seed=7, message_size=6) as parts:
        latents = np.concatenate([part.latent for part in parts if part.latent is not None])
    assert whole is not None
    assert np.array_equal(latents, whole)
    asked = ask("vae", image=IMAGES, outputs=("latent", "mean"))
    assert np.array_equal(infer(served.infer, with_parameters(asked, seed=7))["latent"], latents)


def test_what_version_0_2_0_wrote_is_served_as_it_was(served: Served) -> None:
    """The draw that this encoder makes itself, recorded from a server of that version; its bounds, too."""
    images = np.where(np.arange(32).reshape(2, 4, 4, 1) % 3 == 0, 255, 0).astype(np.uint8)
    found = served.client.encode("vae-0.2.0", images, draw_seed=7)
    assert found.latent is not None
    np.testing.assert_allclose(found.latent, [[-2.5978014, -1.5371379], [-3.061625, -0.3015433]], rtol=1e-5)
    np.testing.assert_allclose(found.mean, [[-0.647485, -1.2540494], [-0.8847818, -0.1516156]], rtol=1e-5)
    assert np.array_equal(served.client.encode("vae-0.2.0", images).mean, found.mean)
    scores = served.client.score("vae-0.2.0", images, seed=7)
    np.testing.assert_allclose(scores.log_likelihood, [-12.568517, -12.027283], rtol=1e-5)
    assert (scores.draws, scores.exact) == (1, False)


SOME = tensor(IMAGES)
OLD_IMAGES = tensor(np.zeros((1, 4, 4, 1), np.uint8))


@pytest.mark.parametrize(
    ("request_", "field", "problem"),
    [
        (pb.ScoreRequest(model="vae", draws=0, images=SOME), "draws", "is 0, must be 1 to 5000"),
        (pb.ScoreRequest(model="vae", draws=-1, images=SOME), "draws", "is -1, must be 1 to 5000"),
        (pb.ScoreRequest(model="vae", draws=5001, images=SOME), "draws", "is 5001, must be 1 to 5000"),
        (
            pb.ScoreRequest(model="vae", draws=3000, images=tensor(np.zeros((400, 8, 8, 1), np.uint8))),
            "draws",
            "is 3000 for each of 400 images, 1200000 in all, must be at most 1048576: send at most 349 images at once",
        ),
        (
            pb.ScoreRequest(model="tally", draws=2, images=tensor(np.zeros((1, 4, 3, 1), np.uint8))),
            "draws",
            "is 2, must be unset or 1: the model's likelihood is exact",
        ),
        (
            pb.ScoreRequest(model="vae-0.2.0", draws=2, images=OLD_IMAGES),
            "draws",
            "is 2, must be unset or 1: its score gives no log-weights: export it anew",
        ),
        (
            pb.DecodeRequest(model="vae-0.2.0", include_variance=True, latents=tensor(np.zeros((1, 2), np.float32))),
            "include_variance",
            "is true, must be unset: the decoder of vae-0.2.0 gives no variance",
        ),
    ],
)
def test_wrong_requests_name_field_value_and_limit(
    served: Served, request_: pb.ScoreRequest | pb.DecodeRequest, field: str, problem: str
) -> None:
    method: Any = served.stub.Score if isinstance(request_, pb.ScoreRequest) else served.stub.Decode
    with pytest.raises(grpc.RpcError) as refusal:
        method(request_, timeout=PATIENCE)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = violation(refusal.value)
    assert found.field == field
    assert problem in found.description


def test_a_message_of_a_stream_is_refused_alone(served: Served) -> None:
    with (
        served.client.score_stream("vae", IMAGES[:2], draws=5001) as parts,
        pytest.raises(InvalidArgument, match=r"score\.draws: is 5001, must be 1 to 5000"),
    ):
        next(parts)
    assert served.client.score("vae", IMAGES[:1]).draws == 1


def test_the_open_inference_protocol(served: Served) -> None:
    asked = with_parameters(ask("vae.score", image=IMAGES), draws=7, seed=5)
    native = served.client.score("vae", IMAGES, draws=7, seed=5)
    assert list(infer(served.infer, asked)) == ["log_likelihood"]
    assert infer(served.infer, asked)["log_likelihood"].tolist() == native.log_likelihood.tolist()
    latents = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    decoded = served.client.decode("vae", latents, include_variance=True)
    assert list(infer(served.infer, ask("vae.decode", latent=latents))) == ["image"]
    assert decoded.mean is not None
    assert decoded.variance is not None
    named = infer(served.infer, ask("vae.decode", latent=latents, outputs=("pixel_variance", "pixel_mean")))
    assert np.array_equal(named["pixel_mean"], decoded.mean)
    assert np.array_equal(named["pixel_variance"], decoded.variance)
    for draws, problem in ((0, "is 0, must be 1 to 5000"), (5001, "is 5001, must be 1 to 5000")):
        with pytest.raises(grpc.RpcError) as refusal:
            infer(served.infer, with_parameters(ask("vae.score", image=IMAGES), draws=draws))
        assert problem in violation(refusal.value).description
        assert violation(refusal.value).field == "parameters[draws]"
    for name in ("vae.decode", "tally.score"):
        images = np.zeros((1, 4, 3, 1), np.uint8)
        asked = ask(name, latent=latents) if name == "vae.decode" else ask(name, image=images)
        with pytest.raises(grpc.RpcError) as refusal:
            infer(served.infer, with_parameters(asked, draws=2))
        assert violation(refusal.value).field == "parameters[draws]"


def test_the_commands(served: Served, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES[:3])
    np.save(tmp_path / "z.npy", np.zeros((2, 4), np.float32))

    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "ancestral"), *arguments, "--address", served.server.address]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path).stdout

    told = run("score", "vae", "images.npy", "--draws", "50", "--seed", "3")
    assert "3 images (bounds of 50 draws: at least these nats, at most these bits)" in told
    found = json.loads(run("score", "vae", "images.npy", "--draws", "50", "--seed", "3", "--json"))
    expected = served.client.score("vae", IMAGES[:3], draws=50, seed=3).log_likelihood
    assert found["draws"] == 50
    assert found["log_likelihood"] == pytest.approx(expected.tolist())
    run("decode", "vae", "z.npy", "--variance", "--out", "decoded.npz")
    with np.load(tmp_path / "decoded.npz") as arrays:
        assert set(arrays) == {"images", "mean", "variance"}
        assert arrays["variance"].shape == (2, 8, 8, 1)
