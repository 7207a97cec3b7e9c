"""The autoencoder's error by hand, and what its noise is."""

from __future__ import annotations

import pytest
import torch

from ancestral_exporter.models.autoencoder import Autoencoder, AutoencoderSettings
from ancestral_exporter.models.base import OBJECTIVE, ImageShape

SHAPE = ImageShape(6, 5, 3, 4)


def make(noise: float = 0.0) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SHAPE, AutoencoderSettings(latent_size=3, channels=4, features=8, noise=noise)).eval()


def some_images(count: int) -> torch.Tensor:
    levels = torch.randint(0, 4, (count, *SHAPE.hwc), generator=torch.Generator().manual_seed(1))
    return (levels * 85).to(torch.uint8)


def test_error_by_hand() -> None:
    model, images = make(), some_images(4)
    labels = torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        drawn = model.decode(model.encode(images))
        found = model.validation_terms(images, labels)["squared_error"]
    assert drawn.shape == (4, *SHAPE.hwc)
    by_hand = [float(((drawn[i] - images[i] / 255) ** 2).sum()) for i in range(4)]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(model.training_terms(images, labels, 1.0)[OBJECTIVE].detach(), found)


def test_noise_changes_what_is_seen_but_not_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make(noise=0.5), some_images(50)
    seen: list[torch.Tensor] = []
    encode = model.encode

    def watched(values: torch.Tensor) -> torch.Tensor:
        seen.append(values)
        return encode(values)

    monkeypatch.setattr(model, "encode", watched)
    model.training_terms(images, torch.zeros(50, dtype=torch.int64), 0.5)
    # Half of the values are those of another image, a quarter of which happens to be equal among four levels.
    changed = (seen[0] != images).float().mean()
    assert 0.3 < changed < 0.45
    # Every value is one of the same place in another image.
    assert ((seen[0][:, None] == images[None]).any(1)).all()
