"""Calls of the client that are made of others: of any number of images, and ways through a VAE's latents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ancestral_client import AsyncClient, Client, InvalidArgument
from running import PATIENT, ServerProcess
from wire import Array

COUNT, MOST = 250, 100


@pytest.fixture(scope="module")
def address(vae: Path) -> Iterator[str]:
    """A server that takes fewer images at once than these tests have."""
    with ServerProcess(vae.parent, "--max-images", str(MOST), *PATIENT) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(2).integers(0, 256, (COUNT, 8, 8, 1), dtype=np.uint8)


def test_more_images_than_a_call_takes_are_answered_in_order(client: Client, images: Array) -> None:
    halves = (images[:MOST], images[MOST : 2 * MOST], images[2 * MOST :])
    posterior = client.encode("vae", images, draw_seed=7, first_index=5)
    parts = [
        client.encode("vae", half, draw_seed=7, first_index=5 + i * MOST, version=1) for i, half in enumerate(halves)
    ]
    for name in ("mean", "log_variance", "latent"):
        assert np.array_equal(getattr(posterior, name), np.concatenate([getattr(part, name) for part in parts])), name
    taken = client.encode("vae", iter(halves), draw_seed=7, first_index=5)
    assert taken.latent is not None
    assert posterior.latent is not None
    assert np.array_equal(taken.latent, posterior.latent)
    scores = client.score("vae", images, seed=7)
    assert np.array_equal(scores.log_likelihood[:MOST], client.score("vae", images[:MOST], seed=7).log_likelihood)
    assert len(scores.log_likelihood) == COUNT
    rebuilt = client.reconstruct("vae", images / 255, scale=255)
    assert np.array_equal(rebuilt.images[-1:], client.decode("vae", posterior.mean[-1:]).images)
    assert rebuilt.images.shape == images.shape
    assert rebuilt.info.model == "vae"
    with pytest.raises(InvalidArgument, match="nothing in it"):
        client.encode("vae", iter(()))


def test_ways_through_the_latents(client: Client, images: Array) -> None:
    ends = client.reconstruct("vae", images[:2])
    for path in ("spherical", "linear"):
        way = client.interpolate("vae", images[0], images[1], steps=5, path=path)
        assert np.array_equal(way.images[[0, -1]], ends.images)
    latent = client.encode("vae", images[0]).mean[0]
    latent[3] = -2
    traversed = client.traverse("vae", images[0], 3, steps=4, span=2)
    assert np.array_equal(traversed.images[:1], client.decode("vae", latent).images)
    plane = client.manifold("vae", steps=3, dimensions=(1, 2))
    assert np.array_equal(plane.images[4:5], client.decode("vae", np.zeros(4)).images)
    assert plane.grid(3).size[0] == plane.grid(3).size[1]


def test_they_are_the_same_when_awaited(client: Client, address: str, images: Array) -> None:
    async def ask() -> list[Array]:
        async with AsyncClient(address) as client:
            way, plane, rebuilt = await asyncio.gather(
                client.interpolate("vae", images[0], images[1]),
                client.manifold("vae", steps=4),
                client.reconstruct("vae", images),
            )
            return [way.images, plane.images, rebuilt.images]

    way, plane, rebuilt = asyncio.run(ask())
    assert np.array_equal(way, client.interpolate("vae", images[0], images[1]).images)
    assert np.array_equal(plane, client.manifold("vae", steps=4).images)
    assert np.array_equal(rebuilt, client.reconstruct("vae", images).images)
