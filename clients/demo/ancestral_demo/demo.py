"""`make demo`, step by step."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from ancestral.text import shown
from ancestral_client import Client
from ancestral_client.files import write_images
from ancestral_client.pictures import GREY
from ancestral_client.replacing import check_writable, reason
from ancestral_demo.digits import Digits, Encodings, accuracies, digits
from ancestral_demo.latency import read_latencies
from ancestral_demo.pictures import in_groups, labelled_rows, manifold_points
from ancestral_demo.processes import RECIPES, DemoError, Server, train_missing
from ancestral_demo.report import REPORTS, Likelihood, Report

MANIFOLD, FEATURES, VAE, PIXELCNN = RECIPES
SEED = 7
GRID = 64
PICTURES = (
    "samples-pixelcnn.png",
    "samples-vae.png",
    "samples-vae-mode.png",
    "reconstructions.png",
    "completions.png",
    "traversals.png",
    "manifold.png",
)
# Test digits that are decoded, and completed.
RECONSTRUCTED, COMPLETED = 16, 8
COMPLETIONS = 3
# Points of the manifold along each latent, and of a traversal; the latents that are traversed, those that tell most.
MANIFOLD_STEPS, STEPS, LATENTS = 16, 11, 6
# Standard deviations of the prior that a traversal goes either way.
REACH = 3
# Calls of each RPC, one image each, that the latency figures rest on.
CALLS = 200
SAMPLE_CALLS = 50


def run(models: Path, out: Path, console: Console) -> Report:
    """Train what is missing, serve, sample, encode, measure; leaves pictures and the report in `out`."""
    began = time.monotonic()
    _check_results(out)
    if not train_missing(models, RECIPES):
        console.print(Text.assemble("Using the bundles in ", (f"{shown(models)}/", "bold"), "."))
    data = digits()
    console.print("Starting the server.")
    with Server(models) as server, Client(server.address) as client:
        likelihoods = [_likelihood(client, name) for name in RECIPES]

        console.print(f"Sampling {GRID} images from each model.")
        write_images(out / "samples-pixelcnn.png", client.sample(PIXELCNN, GRID, seed=SEED).images, {})
        write_images(out / "samples-vae.png", client.sample(VAE, GRID, seed=SEED).images, {})
        # The most likely image of each latent: without the noise of independent pixels.
        write_images(out / "samples-vae-mode.png", client.sample(VAE, GRID, seed=SEED, temperature=0).images, {})

        console.print("Reconstructing test digits: Encode, then Decode.")
        originals = data.test[:RECONSTRUCTED]
        decoded = client.decode(VAE, client.encode(VAE, originals).mean).images
        labelled_rows(in_groups([("original", originals), ("decoded", decoded)])).save(out / "reconstructions.png")

        console.print("Completing the upper halves of test digits.")
        _completions(client, data).save(out / "completions.png")

        console.print("Walking through the latents.")
        _traversals(client, data).save(out / "traversals.png")
        write_images(out / "manifold.png", client.decode(MANIFOLD, manifold_points(MANIFOLD_STEPS)).images, {})

        console.print("Classifying digits by what they are encoded as.")
        accuracy = accuracies(data, _encodings(client, data))

        console.print(f"Measuring latency: {CALLS} calls of each RPC, {SAMPLE_CALLS} of Sample for each model.")
        _exercise(client, data.test)
        latency = read_latencies(server.metrics_url)
    report = Report(likelihoods, accuracy, latency, time.monotonic() - began)
    report.write(out)
    return report


def _check_results(out: Path) -> None:
    """Raises FileProblem or DemoError unless the results can be written; minutes later it would be a pity."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{out}: cannot be made a folder: {reason(error)}") from error
    for name in (*PICTURES, *REPORTS):
        check_writable(out / name)


def _likelihood(client: Client, name: str) -> Likelihood:
    model = client.model(name)
    if not model.serving:
        raise DemoError(f"{name} does not serve: {model.reason}")
    figure = next((m for m in model.metrics if (m.name, m.split) == ("bits_per_dim", "test")), None)
    if figure is None:
        raise DemoError(f"the bundle {name} version {model.version} holds no test bits_per_dim: was it trained?")
    return Likelihood(name, RECIPES[name], model.version, model.family, figure.value, bool(figure.exact))


def _completions(client: Client, data: Digits) -> Image.Image:
    """Test digits, their upper halves, and what the PixelCNN makes of these, one column a digit."""
    originals = data.test[:COMPLETED]
    known = np.zeros(originals.shape, np.bool_)
    known[:, : originals.shape[1] // 2] = True
    rows = [("original", originals), ("given", np.where(known, originals, np.uint8(GREY)))]
    for i in range(COMPLETIONS):
        completed = client.sample(
            PIXELCNN, COMPLETED, seed=SEED, first_index=i * COMPLETED, given=originals, known=known
        )
        rows.append((f"completed, {i + 1}", completed.images))
    return labelled_rows([rows])


def _traversals(client: Client, data: Digits) -> Image.Image:
    """A row for each of the latents that tell most of test digits, the others at 0."""
    encoded = client.encode(VAE, data.test)
    assert encoded.log_variance is not None
    kl = 0.5 * (encoded.mean**2 + np.exp(encoded.log_variance) - 1 - encoded.log_variance).mean(axis=0)
    rows = []
    for latent in np.argsort(-kl)[:LATENTS]:
        points = np.zeros((STEPS, len(kl)), np.float32)
        points[:, latent] = np.linspace(-REACH, REACH, STEPS)
        rows.append((f"latent {latent}, {kl[latent]:.1f} nats", client.decode(VAE, points).images))
    return labelled_rows([rows], ends=(f"z = -{REACH}", f"z = +{REACH}"))


def _encodings(client: Client, data: Digits) -> Encodings:
    """What the VAEs make of training and test digits, by what it is and of which model."""
    images = (data.train, data.test)
    found = {}
    for model in (VAE, FEATURES):
        found[f"Encode means, {model}"] = tuple(client.encode(model, part).mean for part in images)
        found[f"ExtractFeatures, {model}"] = tuple(client.features(model, part).features for part in images)
    return {name: (train, test) for name, (train, test) in found.items()}


def _exercise(client: Client, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    latents = client.encode(VAE, images[:CALLS]).mean
    for i in range(CALLS):
        image = images[i]
        client.encode(VAE, image)
        client.decode(VAE, latents[i])
        client.features(VAE, image)
        client.score(PIXELCNN, image)
    for i in range(SAMPLE_CALLS):
        for name in RECIPES:
            client.sample(name, 1, seed=SEED, first_index=i)
