"""A bundle that was tried in a folder of its own is promoted while the server runs, and serves under its new name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import toybundle
from ancestral_client import Client
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.models.base import ImageShape
from pixelcnns import exported, sharp_pixelcnn
from running import ServerProcess


def test_a_promoted_bundle_serves(tmp_path: Path) -> None:
    models = tmp_path / "models"
    toybundle.write(models)
    tried = exported(sharp_pixelcnn(ImageShape(4, 3, 1, 3)), tmp_path / "scratch", name="toy")
    with ServerProcess(models, "--poll-seconds", "0.1") as server, Client(server.address) as client:
        placed = promote_bundle(tried, models, name="painter", version=7).path
        painter = client.load("painter", 7)
        assert (painter.name, painter.version, painter.serving) == ("painter", 7, True), painter.reason
        images = client.sample("painter", 3, seed=1).images
        # Back to an old version: the copy answers as it did, under the highest number.
        promote_bundle(placed, models, version=9)
        assert client.load("painter", 9).serving
        samples = client.sample("painter", 3, seed=1)
        assert samples.info.version == 9
        np.testing.assert_array_equal(samples.images, images)
