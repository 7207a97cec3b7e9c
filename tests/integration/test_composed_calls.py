"""Calls of the client that are made of others: of any number of images, and ways through a VAE's latents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral_client import AsyncClient, Client, InvalidArgument, RoleNotSupported
from entrypoints import call
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


def test_a_progress_is_told_of_and_changes_nothing(client: Client, images: Array) -> None:
    """Whatever a call is made of: one request, several, or a stream; of an iterator nobody knows how many there are."""
    told: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))

    expected = client.encode("vae", images)
    found = client.encode("vae", images, progress=progress)
    assert np.array_equal(found.mean, expected.mean)
    assert found.info.total_seconds > 0
    assert told == [(64, COUNT), (128, COUNT), (192, COUNT), (COUNT, COUNT)]
    for asked in (client.features, client.score, client.reconstruct):
        told.clear()
        asked("vae", images, progress=progress)
        assert told[-1] == (COUNT, COUNT)
        assert len(told) == 4
    told.clear()
    client.decode("vae", expected.mean, progress=progress)
    client.encode("vae", images[:3], progress=progress)
    client.encode("vae", iter([images[:3], images[3:5]]), progress=progress)
    assert told[-4:] == [(COUNT, COUNT), (3, 3), (3, None), (5, None)]

    def impatient(done: int, total: int | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.encode("vae", images, progress=impatient)
    assert np.array_equal(client.encode("vae", images, progress=True).mean, expected.mean)


def test_a_role_that_is_missing_is_told_before_the_images_are_sent(client: Client, images: Array) -> None:
    client.encode("vae", images[:1])
    with pytest.raises(RoleNotSupported, match=r"model vae \(version 1\) has no role 'classify'; it has") as caught:
        client.classify("vae", images)
    assert not caught.value.request_id, "no server had to say it"


def commanded(folder: Path, address: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ANCESTRAL_ADDRESS", address)
        call("ancestral", *arguments)


def test_the_commands_of_composed_calls(client: Client, address: str, images: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images[:4])
    for index in (0, 1):
        Image.fromarray(images[index, ..., 0]).save(tmp_path / f"{index}.png")
    commanded(tmp_path, address, "reconstruct", "vae", "images.npy", "--out", "r.npz")
    rebuilt = client.reconstruct("vae", images[:4]).images
    with np.load(tmp_path / "r.npz") as archive:
        assert np.array_equal(archive["images"], rebuilt)
    commanded(tmp_path, address, "interpolate", "vae", "0.png", "1.png", "--steps", "5", "--out", "w.npy")
    way = client.interpolate("vae", images[0], images[1], steps=5).images
    assert np.array_equal(np.load(tmp_path / "w.npy"), way)
    commanded(tmp_path, address, "traverse", "vae", "0.png", "--steps", "3", "--span", "2", "--out", "t.npy")
    ways = [client.traverse("vae", images[0], z, steps=3, span=2).images for z in range(4)]
    assert np.array_equal(np.load(tmp_path / "t.npy"), np.concatenate(ways))
    commanded(tmp_path, address, "traverse", "vae", "0.png", "--dimension", "2", "--steps", "3", "--out", "t2.npy")
    assert len(np.load(tmp_path / "t2.npy")) == 3
    commanded(tmp_path, address, "manifold", "vae", "--steps", "3", "--dimensions", "1", "2", "--out", "m.npy")
    plane = client.manifold("vae", steps=3, dimensions=(1, 2)).images
    assert np.array_equal(np.load(tmp_path / "m.npy"), plane)
    # Pictures: an image left of its reconstruction, a row for each dimension, a square.
    for name, arguments, size in (
        ("r.png", ("reconstruct", "vae", "images.npy"), (6, 2)),
        ("w.png", ("interpolate", "vae", "0.png", "1.png", "--steps", "5"), (5, 1)),
        ("t.png", ("traverse", "vae", "0.png", "--steps", "3"), (3, 4)),
        ("m.png", ("manifold", "vae", "--steps", "3"), (3, 3)),
    ):
        commanded(tmp_path, address, *arguments, "--out", name)
        with Image.open(tmp_path / name) as picture:
            assert picture.size == tuple((tiles * 9 + 1) * 8 for tiles in size), name
    with Image.open(tmp_path / "r.png") as picture:
        pixels = np.asarray(picture)[::8, ::8]
    assert np.array_equal(pixels[1:9, 1:9], images[0, ..., 0])
    assert np.array_equal(pixels[1:9, 10:18], rebuilt[0, ..., 0])
