"""Which of a server's models a panel may offer, and what to say of one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ancestral.text import shown
from ancestral_client import Model
from ancestral_client.pictures import CHANNELS

MOST_SAMPLES = 64
"""Images of one grid: as many as can be told from each other."""
# Bytes of all images of a grid together: what a phone loads in some seconds.
_MOST_BYTES = 4 << 20
# Bytes of pixels, and a mask, that a page sends back of a drawing: NiceGUI's socket takes messages of 1,000,000, in
# which base64 needs 4 bytes for 3.
_MOST_DRAWN = 600_000

Able = Callable[[Model], bool]


def offered(models: Iterable[Model]) -> list[Model]:
    """The highest version that serves of each model whose images make a picture, by name."""
    newest: dict[str, Model] = {}
    for model in models:
        if model.serving and model.image_shape[2] in CHANNELS:
            known = newest.get(model.name)
            newest[model.name] = model if known is None or model.version > known.version else known
    return [newest[name] for name in sorted(newest)]


def can(*roles: str) -> Able:
    """Whether a model has all of these roles."""
    return lambda model: set(roles) <= set(model.roles)


def completes(model: Model) -> bool:
    """Whether it can draw the rest of an image: what draws all pixels from one latent cannot keep some of them."""
    return "sample" in model.roles and model.latent_size == 0 and drawable(model)


def has_latents(model: Model) -> bool:
    """Whether images go into its latents and come back."""
    return can("encode", "decode")(model) and drawable(model)


def drawable(model: Model) -> bool:
    """Whether its images are small enough to be drawn on."""
    height, width, channels = model.image_shape
    return (channels + 1) * height * width <= _MOST_DRAWN


def has_plane(model: Model) -> bool:
    """Whether there are two latents to move in."""
    return "decode" in model.roles and model.latent_size >= 2


def about(model: Model) -> str:
    """One line: what a model is and how good."""
    height, width, channels = model.image_shape
    parts = [f"{height}×{width} {'grey' if channels == 1 else 'colour'}, {model.levels} levels"]
    if model.latent_size:
        parts.append(f"{model.latent_size} latents")
    if model.label_count:
        parts.append(f"{model.label_count} classes")
    bits = next((m for m in model.metrics if m.unit == "bits/dim" and m.split == "test"), None)
    if bits is not None:
        parts.append(f"{'at most ' if bits.exact is False else ''}{bits.value:.3f} bits/dim on test images")
    return shown(f"{model.family} version {model.version} on {model.device}: {', '.join(parts)}")


def class_options(model: Model) -> dict[int, str]:
    """The classes that can be asked for, by number."""
    names = model.class_names or tuple(map(str, range(model.label_count)))
    return {label: shown(name) for label, name in enumerate(names[: model.label_count])}


def nats(log_likelihood: float | None) -> str:
    """What stands under an image."""
    return "" if log_likelihood is None else f"{log_likelihood:.1f} nats".replace("-", "−")


def most_samples(model: Model) -> int:
    """How many images of a model one grid may have."""
    height, width, channels = model.image_shape
    limit = MOST_SAMPLES if model.limits is None else model.limits.max_sample_count
    return max(1, min(MOST_SAMPLES, limit, _MOST_BYTES // (height * width * channels)))
