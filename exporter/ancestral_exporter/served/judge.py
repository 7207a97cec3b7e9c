"""A small classifier of the images: what samples are held against, and what the Fréchet distance looks through.

It is the same net, made by the same steps with the same seed, for every bundle of a data set, so figures of one data
set compare; they do not with another classifier's, nor with a published FID, which Inception's features make.

Letters: N images, H, W, C image axes, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.augmentation import shifted
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.models.base import ImageShape

FEATURES = 64
# After so many steps it gets 96.4 % of the 447 test digits right.
_STEPS, _BATCH, _RATE = 2000, 64, 2e-3
_SEED = 0
# Training images are moved by up to a 14th of their shorter side, MNIST's by 2 pixels.
_SHIFT = 14
_MOST_AT_ONCE = 500


@dataclass(frozen=True)
class Judged:
    """features [N,F] and probabilities [N,K] of N images."""

    features: Array
    probabilities: Array

    @property
    def classes(self) -> Array:
        """[N], the most probable ones."""
        return cast(Array, self.probabilities.argmax(axis=1))


class Judge(nn.Module):
    """Three convolutions and two dense layers."""

    def __init__(self, image: ImageShape, classes: int) -> None:
        super().__init__()
        height, width = -(-image.height // 4), -(-image.width // 4)
        self.body = nn.Sequential(
            nn.Conv2d(image.channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * height * width, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """[N,F] of images [N,H,W,C] uint8."""
        return cast(Tensor, self.body(images.permute(0, 3, 1, 2).float() / 255))

    @torch.no_grad()
    def look(self, images: Array) -> Judged:
        """Images [N,H,W,C] uint8 as this net sees them."""
        features = torch.cat([self.features(part) for part in torch.split(torch.from_numpy(images), _MOST_AT_ONCE)])
        probabilities = functional.softmax(self.head(features), dim=1)
        return Judged(features.numpy(), probabilities.numpy())


def train_judge(images: Array, labels: Array, image: ImageShape) -> Judge:
    """A classifier of images [N,H,W,C] uint8 with the classes [N]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        judge = Judge(image, int(labels.max()) + 1).train()
        optimizer = torch.optim.AdamW(judge.parameters(), _RATE, weight_decay=0.01)
        cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        seen, wanted = torch.from_numpy(images), torch.from_numpy(labels)
        shift = min(image.height, image.width) // _SHIFT or 1
        for _ in range(_STEPS):
            chosen = torch.randint(len(seen), (_BATCH,))
            loss = functional.cross_entropy(judge.head(judge.features(shifted(seen[chosen], shift))), wanted[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return judge.eval()
