"""What lies in the zoo serves as it lies, and paints what it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ancestral_client import Client
from ancestral_exporter.bundle import verify_bundle
from running import ServerProcess

ZOO = Path(__file__).parents[2] / "exporter" / "zoo"
LIMIT_BYTES = 8 * 2**20


def test_every_bundle_is_whole_and_all_are_small() -> None:
    bundles = [manifest.parent for manifest in ZOO.glob("*/*/bundle.json")]
    assert bundles
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) < LIMIT_BYTES
    for bundle in bundles:
        report = verify_bundle(bundle)
        assert report.ok, str(report)


def test_its_digits_are_as_likely_as_its_card_says() -> None:
    """The entropy of its own samples is near the cross-entropy of the test images, which it has learned."""
    with ServerProcess(ZOO) as server, Client(server.address, timeout=120) as client:
        (model,) = client.models()
        samples = client.sample(model.name, 64, seed=1)
        assert samples.log_likelihood is not None
        (test,) = (m.value for m in model.metrics if m.name == "negative_log_likelihood" and m.split == "test")
        nats = -samples.log_likelihood
        assert abs(float(nats.mean()) - test) < 4 * float(nats.std()) / np.sqrt(len(nats)) + 5
