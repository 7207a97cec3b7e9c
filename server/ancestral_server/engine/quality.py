"""What the images of a role are like, beside those that its model was trained on: looked at now and then, by whoever
has a turn of the lane, once the callers have their answers.

Letters: N images of a look, D values of an image, Z latent dimensions, F values of an image that are compared.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import Job, NoiseStreams, OneShotJob, RasterJob, Repeated
from ancestral_server.metrics import QualityMetrics
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array

IMAGE = bundle_pb2.MEANING_IMAGE
MEAN = bundle_pb2.MEANING_MEAN
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
LOG_WEIGHT = bundle_pb2.MEANING_LOG_WEIGHT
TEMPERATURE = bundle_pb2.MEANING_TEMPERATURE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS

SAMPLE = "sample"

log = structlog.get_logger()

# Images, and bytes of them, at a look: it takes a tenth of a millisecond or two, also of large images.
MOST_IMAGES, MOST_BYTES = 64, 2**18
# Samples of a look that are compared, with so many earlier ones, and by how many of their values: each with each.
COMPARED, REMEMBERED, VALUES = 8, 64, 256
# Seconds between two looks of a role at least; and the share of a core that the looks of all roles may take.
PAUSE_SECONDS, SHARE = 0.1, 0.005
# How many images a window is of, the older ones counting less and less; and of how many it is before it is shown. The
# mean of 64 is by chance an eighth of a standard deviation off: half a one, where alerts begin, is four times that.
WINDOW, LEAST = 1024, 64
# Two samples are alike whose values differ by so many bytes on average: 1 % of the range.
ALIKE = 2.55
# Latents that hardly vary in training say nothing, whatever their scale: in units of the others', at least so much.
LEAST_SPREAD = 0.1


class Looks:
    """The time that the looks of all roles of a server take together."""

    def __init__(self) -> None:
        self._roles: weakref.WeakSet[Quality] = weakref.WeakSet()

    def enter(self, quality: Quality) -> None:
        self._roles.add(quality)

    def pause(self, seconds: float) -> float:
        """How long a role that has looked for so many seconds waits before it looks again."""
        return max(PAUSE_SECONDS, seconds * len(self._roles) / SHARE)


class Window:
    """Mean and variance of the last `WINDOW` rows, about; numbers should be of the order of 1."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Array = np.zeros(())
        self._square: Array = np.zeros(())

    def add(self, rows: Array) -> None:
        """rows: [N, ...]."""
        rows = rows.astype(np.float64)
        self.count = min(self.count + len(rows), WINDOW)
        share = len(rows) / self.count
        self.mean = self.mean + share * (rows.mean(0) - self.mean)
        self._square = self._square + share * (np.square(rows).mean(0) - self._square)

    @property
    def variance(self) -> Array:
        variance: Array = np.maximum(self._square - np.square(self.mean), 0.0)
        return variance


class Repeats:
    """Which samples look like one before that was drawn from other noise."""

    def __init__(self) -> None:
        self._pixels = np.empty((0, 0), np.uint8)
        self._streams = np.empty((0, 2), np.int64)

    def add(self, images: Array, streams: Array) -> tuple[int, int]:
        """How many of these samples there was another to compare with, and how many of them are like one.

        images: [N,H,W,C] uint8, N at most `COMPARED`. streams: [N,2].
        """
        flat = images.reshape(len(images), -1)
        pixels = flat[:, :: -(-flat.shape[1] // VALUES)]
        known, count = len(self._pixels), len(pixels)
        self._pixels = np.concatenate([self._pixels, pixels]) if known else pixels
        self._streams = np.concatenate([self._streams, streams])
        # [N, remembered + N, F], in bytes and in a sum of 16 bits, which holds that of F = 256 bytes.
        apart = np.maximum(pixels[:, None], self._pixels) - np.minimum(pixels[:, None], self._pixels)
        alike = apart.sum(axis=2, dtype=np.uint16) <= ALIKE * pixels.shape[1]
        before = np.arange(known + count) < known + np.arange(count)[:, None]
        others = before & (self._streams != streams[:, None]).any(axis=2)
        self._pixels, self._streams = self._pixels[-REMEMBERED:], self._streams[-REMEMBERED:]
        return int(others.any(axis=1).sum()), int((others & alike).any(axis=1).sum())


class Quality:
    """Of one role of a model version. `look` may be called by any thread; one looks at a time.

    clock: seconds that the calling thread has computed; on a busy machine a look may lie idle for much longer.
    """

    def __init__(
        self,
        metrics: QualityMetrics,
        manifest: bundle_pb2.Bundle,
        role: bundle_pb2.Role,
        looks: Looks,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        values = manifest.image.height * manifest.image.width * manifest.image.channels
        outputs = {tensor.meaning for tensor in role.outputs}
        # When there may be a look again, time.monotonic() seconds.
        self.due = -math.inf
        self._name = f"{manifest.name}:{manifest.version} {role.name}"
        self._metrics = metrics
        self._looks = looks
        self._clock = clock
        self._lock = threading.Lock()
        self._most = max(1, min(MOST_IMAGES, MOST_BYTES // values))
        self._nats_per_bit = values * math.log(2)
        # Of a bound the draws themselves: what is made of several is made by whoever asked for it.
        self._likelihood = next((each for each in (LOG_WEIGHT, LOG_LIKELIHOOD) if each in outputs), None)
        training = manifest.training_moments
        self._training_intensity = training.intensity_mean, training.intensity_std
        self._intensity = Window()
        spread = np.array(training.latent_std, np.float64)
        self._latents = Window() if spread.any() and MEAN in outputs else None
        self._latent_mean = np.array(training.latent_mean, np.float64)
        self._latent_std = np.maximum(spread, LEAST_SPREAD * _root_mean_square(spread))
        self._repeats = Repeats() if role.name == SAMPLE else None
        if self._repeats is not None:
            metrics.samples = True
        looks.enter(self)

    def look(self, jobs: Sequence[Job], now: float) -> None:
        """Look at some of the images of jobs that were answered, unless it is too soon. now: time.monotonic()."""
        if now < self.due or not self._lock.acquire(blocking=False):
            return
        began = self._clock()
        try:
            self._look(jobs)
            self.due = now + self._looks.pause(self._clock() - began)
        except Exception:  # calls go on, whatever it is
            self.due = math.inf
            log.exception("a look at images failed, there are no more", lane=self._name)
        finally:
            self._lock.release()

    def _look(self, jobs: Sequence[Job]) -> None:
        seen: list[Seen] = []
        room = self._most
        for job in jobs:
            if room <= 0:
                break
            if isinstance(job, RasterJob):
                seen.append(_of_raster(job, room))
            elif isinstance(job, OneShotJob):
                seen.append(_of_one_shot(job, room, self._likelihood))
            room -= seen[-1].images
        self._metrics.images += sum(each.images for each in seen)
        if inputs := [each.inputs for each in seen if each.inputs is not None]:
            self._look_at_inputs(np.concatenate(inputs))
        if latents := [each.latents for each in seen if each.latents is not None]:
            self._look_at_latents(np.concatenate(latents))
        if self._likelihood and (nats := [each.nats for each in seen if each.nats is not None]):
            for bits in (np.concatenate(nats).astype(np.float64) / -self._nats_per_bit).tolist():
                if math.isfinite(bits):
                    self._metrics.bits_per_dim.observe(bits)
        if self._repeats is not None and (drawn := [each for each in seen if each.streams is not None]):
            images = np.concatenate([each.samples for each in drawn if each.samples is not None])
            streams = np.concatenate([each.streams for each in drawn if each.streams is not None])
            compared, repeated = self._repeats.add(images[:COMPARED], streams[:COMPARED])
            self._metrics.compared += compared
            self._metrics.repeated += repeated

    def _look_at_inputs(self, images: Array) -> None:
        self._intensity.add(images.reshape(len(images), -1).mean(axis=1) / 255)
        if self._intensity.count < LEAST:
            return
        intensity = self._metrics.input_intensity = float(self._intensity.mean)
        mean, std = self._training_intensity
        if std:
            self._metrics.input_shift = (intensity - mean) / std

    def _look_at_latents(self, latents: Array) -> None:
        latents = latents[np.isfinite(latents).all(axis=1)]
        if self._latents is None or not len(latents):
            return
        self._latents.add((latents - self._latent_mean) / self._latent_std)
        if self._latents.count >= LEAST:
            self._metrics.latent_shift = _root_mean_square(self._latents.mean)
            self._metrics.latent_spread = math.sqrt(float(self._latents.variance.mean()))


@dataclass(frozen=True, slots=True)
class Seen:
    """What is looked at of a job: so many images. inputs: [N,H,W,C] uint8, of the caller. latents: [N,Z]. nats: [N].
    samples: [N,H,W,C] uint8 that were drawn as the model is, from the noise of `streams` [N,2]: seeds and indices.
    """

    images: int
    inputs: Array | None = None
    latents: Array | None = None
    nats: Array | None = None
    samples: Array | None = None
    streams: Array | None = None


def _of_one_shot(job: OneShotJob, most: int, likelihood: Meaning | None) -> Seen:
    """Of a job of several runs, one of them."""
    image = job.inputs.get(IMAGE)
    if isinstance(image, Repeated):
        image = image.array
    inputs = image[_spread(len(image), most)] if isinstance(image, np.ndarray) else None
    start, rows = next((start, len(piece)) for start, piece in job.pieces[job.wanted[0]].items())
    chosen = _spread(rows, most)

    def output(meaning: Meaning | None) -> Array | None:
        if meaning is None or meaning not in job.wanted:
            return None
        return job.pieces[meaning][start][chosen]

    images = len(chosen) if inputs is None else len(inputs)
    seen = Seen(images, inputs, output(MEAN), output(likelihood))
    noise, temperature = job.inputs.get(UNIFORMS), job.inputs.get(TEMPERATURE)
    if isinstance(noise, NoiseStreams) and (temperature is None or bool(np.all(temperature == 1))):
        places = (start + chosen).tolist()
        indices = [noise.first + at if noise.indices is None else noise.indices[at] for at in places]
        seen = replace(seen, samples=output(IMAGE), streams=_streams(noise.seed, indices))
    return seen


def _of_raster(job: RasterJob, most: int) -> Seen:
    chosen = _spread(job.rows, most)
    if job.completion is not None:  # partly the caller's
        return Seen(len(chosen))
    seen = Seen(len(chosen), nats=job.log_likelihood[chosen])
    if job.temperature == 1:
        streams = _streams(job.seed, [job.stream(at) for at in chosen.tolist()])
        seen = replace(seen, samples=job.images[chosen], streams=streams)
    return seen


def _spread(count: int, most: int) -> Array:
    """At most so many numbers below `count`, evenly spread."""
    return np.arange(0, count, max(1, -(-count // most)))


def _streams(seed: int, indices: Sequence[int]) -> Array:
    return np.array([(seed, index) for index in indices], np.int64)


def _root_mean_square(values: Array) -> float:
    return math.sqrt(float(np.square(values).mean())) if len(values) else 0.0
