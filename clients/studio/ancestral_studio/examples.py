"""Images to begin with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ancestral_client import AsyncClient, Model
from ancestral_studio.visit import Asked


async def example(client: AsyncClient, model: Model, asked: Asked) -> NDArray[np.uint8]:
    """An image [H,W,C] of the model's own, of any class: a sample, or what it decodes of a draw of the prior."""
    random = np.random.default_rng()
    if "sample" in model.roles:
        label = int(random.integers(model.label_count)) if model.label_count else None
        samples = await client.sample(model.name, 1, label=label)
        asked.answered(samples.info)
        images = samples.images
    else:
        decoded = await client.decode(model.name, random.normal(size=(1, model.latent_size)))
        asked.answered(decoded.info)
        images = decoded.images
    image: NDArray[np.uint8] = images[0]
    return image
