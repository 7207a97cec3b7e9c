"""What the images of a role are like: written by `engine.quality`, and the series that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ancestral_server.metrics import text
from ancestral_server.metrics.histogram import LockFreeHistogram

# From what binarised digits take to what noise of 8 bits does, 0.03 to 12.7, by thirds of an octave.
BITS_BUCKETS = tuple(2 ** (n / 3) for n in range(-15, 12))


@dataclass(slots=True)
class QualityMetrics:
    """What the images of a role are like, of those that were looked at; written by one thread at a time.

    intensity: 0 to 1. Shifts and spreads are in standard deviations of the training images. None while it is unknown.
    samples: the role draws, and these are compared.
    """

    images: int = 0
    input_intensity: float | None = None
    input_shift: float | None = None
    latent_shift: float | None = None
    latent_spread: float | None = None
    samples: bool = False
    compared: int = 0
    repeated: int = 0
    bits_per_dim: LockFreeHistogram = field(default_factory=lambda: LockFreeHistogram(BITS_BUCKETS))


def quality_series(quality: Mapping[str, QualityMetrics], open_metrics: bool) -> str:
    """Of roles by their labels."""
    samples = {labels: each for labels, each in quality.items() if each.samples}
    return "".join(
        (
            text.counter(
                "ancestral_images_inspected",
                "Images of answered requests that were looked at for what is said here of inputs, latents, "
                "likelihoods and samples: a few of them, a few times a second.",
                {labels: each.images for labels, each in quality.items()},
                open_metrics,
            ),
            text.histogram(
                "ancestral_bits_per_dim",
                "Bits per dimension of inspected images by their model: of those scored, where it is a bound at "
                "one draw; and of those sampled, whatever the temperature, but no completions.",
                {labels: each.bits_per_dim for labels, each in quality.items()},
                open_metrics,
            ),
            text.gauge(
                "ancestral_input_intensity",
                "Mean brightness of the last thousand inspected images of callers, 0 to 1.",
                {labels: each.input_intensity for labels, each in quality.items()},
            ),
            text.gauge(
                "ancestral_input_shift",
                "How much brighter these are than the training images, in standard deviations of the brightness "
                "of one of those.",
                {labels: each.input_shift for labels, each in quality.items()},
            ),
            text.gauge(
                "ancestral_latent_shift",
                "How far the mean encoding of the last thousand inspected images is from that of the training "
                "images, in standard deviations of one of those; root mean square over the latents.",
                {labels: each.latent_shift for labels, each in quality.items()},
            ),
            text.gauge(
                "ancestral_latent_spread",
                "Standard deviation of these encodings, in those of the training images; root mean square over "
                "the latents.",
                {labels: each.latent_spread for labels, each in quality.items()},
            ),
            text.counter(
                "ancestral_samples_compared",
                "Inspected samples, drawn at temperature 1 and whole, that were compared with the last tens of "
                "others, those of the same seed and index aside.",
                {labels: each.compared for labels, each in samples.items()},
                open_metrics,
            ),
            text.counter(
                "ancestral_samples_repeated",
                "Those of them that are nearly identical to another: 1 % of the range apart on average, or less.",
                {labels: each.repeated for labels, each in samples.items()},
                open_metrics,
            ),
        )
    )
