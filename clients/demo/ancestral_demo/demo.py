"""`make demo`, step by step."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from ancestral.text import shown
from ancestral_client import Client
from ancestral_client.files import write_images
from ancestral_client.replacing import check_writable, reason
from ancestral_demo.digits import accuracies, digits
from ancestral_demo.latency import read_latencies
from ancestral_demo.pictures import side_by_side
from ancestral_demo.processes import RECIPES, DemoError, Server, train_missing
from ancestral_demo.report import REPORTS, Likelihood, Report

VAE, PIXELCNN = RECIPES
SEED = 7
GRID = 64
PICTURES = ("samples-pixelcnn.png", "samples-vae.png", "samples-vae-mode.png", "reconstructions.png")
# Calls of each RPC, one image each, that the latency figures rest on.
CALLS = 200
SAMPLE_CALLS = 50


def run(models: Path, out: Path, console: Console) -> Report:
    """Train what is missing, serve, sample, encode, measure; leaves pictures and the report in `out`."""
    began = time.monotonic()
    _check_results(out)
    if not train_missing(models):
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
        originals = data.test[:16]
        decoded = client.decode(VAE, client.encode(VAE, originals).mean).images
        side_by_side(originals, decoded).save(out / "reconstructions.png")

        console.print("Classifying digits by their Encode means.")
        means = [client.encode(VAE, images).mean for images in (data.train, data.test)]
        accuracy = accuracies(data, *means)

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
    return Likelihood(name, model.version, model.family, figure.value, bool(figure.exact))


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
