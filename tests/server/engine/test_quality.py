"""What is said of the images of a role: by jobs as a lane has answered them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.engine import quality
from ancestral_server.engine.job import Completion, NoiseStreams, OneShotJob, RasterJob, Repeated
from ancestral_server.engine.quality import LEAST, PAUSE_SECONDS, SHARE, WINDOW, Looks, Quality, Repeats, Window
from ancestral_server.metrics import QualityMetrics

IMAGE, MEAN, UNIFORMS = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_UNIFORMS
TEMPERATURE = bundle_pb2.MEANING_TEMPERATURE
LOG_LIKELIHOOD, LOG_WEIGHT = bundle_pb2.MEANING_LOG_LIKELIHOOD, bundle_pb2.MEANING_LOG_WEIGHT
SHAPE = (8, 8, 1)
Z = 3
TRAINING = bundle_pb2.TrainingMoments(
    images=1000, intensity_mean=0.4, intensity_std=0.1, latent_mean=[1, -1, 0], latent_std=[1, 2, 0.5]
)


class Clock:
    """Each look takes so many seconds."""

    def __init__(self) -> None:
        self.now, self.look_seconds = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.look_seconds
        return self.now


class Watched:
    """A role and its telemetry; `look` is at a time when there may be one."""

    def __init__(self, role: str, *outputs: Any, training: bundle_pb2.TrainingMoments | None = TRAINING) -> None:
        height, width, channels = SHAPE
        manifest = bundle_pb2.Bundle(
            image=bundle_pb2.ImageSpec(height=height, width=width, channels=channels, levels=256), latent_size=Z
        )
        if training is not None:
            manifest.training_moments.CopyFrom(training)
        spec = bundle_pb2.Role(name=role, outputs=[bundle_pb2.TensorSpec(meaning=meaning) for meaning in outputs])
        self.metrics, self.clock, self.looks = QualityMetrics(), Clock(), Looks()
        self.quality = Quality(self.metrics, manifest, spec, self.looks, self.clock)

    def look(self, *jobs: Any) -> None:
        self.quality.look(jobs, max(0.0, self.quality.due))


@pytest.fixture
def future() -> Any:
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


def answered(future: Any, inputs: Mapping[Any, Any], outputs: Mapping[Any, Any], **how: Any) -> OneShotJob:
    """A job that has these answers, all of one run."""
    rows = len(next(iter(outputs.values())))
    job = OneShotJob(rows, future, inputs=inputs, wanted=list(outputs), **how)
    job.pieces = {meaning: {0: array} for meaning, array in outputs.items()}
    return job


def images(count: int, level: float, rng: np.random.Generator | None = None) -> Any:
    """Of that brightness on average, 0 to 1."""
    rng = rng or np.random.default_rng(1)
    return np.clip(rng.normal(255 * level, 20, (count, *SHAPE)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("level", "shift"), [(0.4, 0.0), (0.7, 3.0), (0.2, -2.0)])
def test_the_brightness_of_inputs_is_told_beside_that_of_training(future: Any, level: float, shift: float) -> None:
    watched = Watched("features", bundle_pb2.MEANING_FEATURES)
    some = images(LEAST - 1, level)
    watched.look(answered(future, {IMAGE: some}, {bundle_pb2.MEANING_FEATURES: np.zeros((len(some), 2))}))
    assert watched.metrics.input_intensity is None  # of too few
    watched.look(answered(future, {IMAGE: some[:1]}, {bundle_pb2.MEANING_FEATURES: np.zeros((1, 2))}))
    assert watched.metrics.input_intensity == pytest.approx(level, abs=0.01)
    assert watched.metrics.input_shift == pytest.approx(shift, abs=0.1)
    assert watched.metrics.images == LEAST


@pytest.mark.parametrize(
    ("shift", "spread"),
    [(0.0, 1.0), (0.7, 1.0), (0.0, 0.3), (0.0, 1.8), (5.0, 0.0)],
    ids=["training", "shifted", "narrow", "wide", "one image again and again"],
)
def test_encodings_are_told_beside_those_of_training(future: Any, shift: float, spread: float) -> None:
    watched = Watched("encode", MEAN)
    rng = np.random.default_rng(3)
    for _ in range(WINDOW // LEAST):
        latents = rng.normal(shift, spread, (LEAST, Z)) * TRAINING.latent_std + TRAINING.latent_mean
        watched.look(answered(future, {IMAGE: images(LEAST, 0.4)}, {MEAN: latents.astype(np.float32)}))
    assert watched.metrics.latent_shift == pytest.approx(shift, abs=0.1)
    assert watched.metrics.latent_spread == pytest.approx(spread, abs=0.1)


def test_what_is_not_finite_is_left_out(future: Any) -> None:
    watched = Watched("encode", MEAN)
    latents = np.tile(np.array(TRAINING.latent_mean, np.float32), (LEAST + 1, 1))
    for bad in (np.nan, np.inf):
        latents[5, 1] = bad
        watched.look(answered(future, {IMAGE: images(LEAST, 0.4)}, {MEAN: latents[:LEAST]}))
    assert watched.metrics.latent_shift == 0
    score = Watched("score", LOG_LIKELIHOOD)
    nats = np.array([np.nan, -np.inf, -10], np.float32)
    score.look(answered(future, {IMAGE: images(3, 0.4)}, {LOG_LIKELIHOOD: nats}))
    assert sum(score.metrics.bits_per_dim.counts) == 1
    assert score.metrics.bits_per_dim.total == pytest.approx(10 / (64 * math.log(2)))


@pytest.mark.parametrize(
    "training",
    [
        None,
        bundle_pb2.TrainingMoments(images=1),
        bundle_pb2.TrainingMoments(images=1, latent_mean=[0] * Z, latent_std=[0] * Z),
    ],
    ids=["none", "of one image", "an encoder that gives one answer"],
)
def test_a_bundle_that_says_nothing_of_its_training_has_no_drift(future: Any, training: Any) -> None:
    watched = Watched("encode", MEAN, training=training)
    watched.look(answered(future, {IMAGE: images(LEAST, 0.4)}, {MEAN: np.ones((LEAST, Z), np.float32)}))
    metrics = watched.metrics
    assert metrics.input_intensity == pytest.approx(0.4, abs=0.01)
    assert (metrics.input_shift, metrics.latent_shift, metrics.latent_spread) == (None, None, None)


def test_a_latent_that_hardly_varied_in_training_is_no_reason_for_an_alarm(future: Any) -> None:
    training = bundle_pb2.TrainingMoments(images=9, latent_mean=[0] * Z, latent_std=[1, 1, 1e-6])
    watched = Watched("encode", MEAN, training=training)
    latents = np.array([[0, 0, 0.001]] * LEAST, np.float32)
    watched.look(answered(future, {IMAGE: images(LEAST, 0.4)}, {MEAN: latents}))
    assert watched.metrics.latent_shift is not None
    assert watched.metrics.latent_shift < 0.01


def test_bits_per_dim_of_what_is_scored_and_sampled(future: Any) -> None:
    bits = np.array([0.5, 1.5, 8.0])
    nats = (-bits * 64 * math.log(2)).astype(np.float32)
    score = Watched("score", LOG_WEIGHT)
    given = Repeated(images(1, 0.4), 3)  # three draws of an image
    score.look(answered(future, {IMAGE: given}, {LOG_WEIGHT: nats}, draws=3))
    sample = Watched("sample", bundle_pb2.MEANING_ROW, LOG_LIKELIHOOD)
    job = RasterJob(3, future, images=images(3, 0.4), log_likelihood=nats, temperature=0.5)
    sample.look(job)
    for watched in (score, sample):
        assert watched.metrics.bits_per_dim.total == pytest.approx(bits.sum(), rel=1e-6)
    assert (score.metrics.images, sample.metrics.images) == (1, 3)
    # Partly the caller's.
    job.completion = Completion(images(1, 0.4), np.ones((1, *SHAPE), np.bool_))
    sample.look(job)
    assert sum(sample.metrics.bits_per_dim.counts) == 3


def test_samples_that_look_alike_are_repeats_unless_they_are_of_the_same_noise(future: Any) -> None:
    rng = np.random.default_rng(5)
    different = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    watched = Watched("sample", bundle_pb2.MEANING_ROW)

    def sample(pixels: Any, **how: Any) -> tuple[int, int]:
        watched.look(RasterJob(len(pixels), future, images=pixels, log_likelihood=np.zeros(len(pixels)), **how))
        return watched.metrics.compared, watched.metrics.repeated

    assert sample(different, seed=1) == (4, 0)  # the first one had no other
    assert sample(different, seed=1) == (9, 0)  # asked for once more
    assert sample(different[:2] ^ 1, seed=2) == (11, 2)  # nearly the same, of other noise
    assert sample(different[:2], seed=3, indices=[7, 9]) == (13, 4)
    # What is drawn at another temperature, or completed, may rightly look alike.
    assert sample(different[:2], seed=4, temperature=0.0) == (13, 4)
    kept = Completion(different[:1], np.ones((1, *SHAPE), np.bool_))
    assert sample(different[:2], seed=4, completion=kept) == (13, 4)


@pytest.mark.parametrize(("temperature", "compared"), [(None, 2), (1.0, 2), (0.5, 0)])
def test_samples_of_one_run_are_compared_too(future: Any, temperature: float | None, compared: int) -> None:
    inputs: dict[Any, Any] = {UNIFORMS: NoiseStreams(1, 10, (2,))}
    if temperature is not None:
        inputs[TEMPERATURE] = np.full(3, temperature, np.float32)
    watched = Watched("sample", IMAGE)
    watched.look(answered(future, inputs, {IMAGE: np.zeros((3, *SHAPE), np.uint8)}))
    assert (watched.metrics.compared, watched.metrics.repeated) == (compared, compared)


def test_a_decoder_draws_nothing(future: Any) -> None:
    watched = Watched("decode", IMAGE)
    latent = {bundle_pb2.MEANING_LATENT: np.zeros((3, Z), np.float32)}
    watched.look(answered(future, latent, {IMAGE: np.zeros((3, *SHAPE), np.uint8)}))
    assert not watched.metrics.samples
    assert watched.metrics.compared == 0


def test_a_look_is_at_some_of_many_images_and_of_many_jobs(future: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_BYTES", 10 * math.prod(SHAPE))
    watched = Watched("encode", MEAN)
    job = answered(future, {IMAGE: images(1000, 0.4)}, {MEAN: np.zeros((1000, Z), np.float32)})
    watched.look(job)
    assert watched.metrics.images == 10
    single = answered(future, {IMAGE: images(1, 0.4)}, {MEAN: np.zeros((1, Z), np.float32)})
    watched.look(*[single] * 30)
    assert watched.metrics.images == 20


def test_looks_are_bounded_in_their_share_of_the_time_whatever_they_take(future: Any) -> None:
    watched = Watched("encode", MEAN)
    job = answered(future, {IMAGE: images(1, 0.4)}, {MEAN: np.zeros((1, Z), np.float32)})
    watched.quality.look([job], 100.0)
    assert watched.quality.due == 100.0 + PAUSE_SECONDS
    watched.quality.look([job], 100.0)  # too soon
    assert watched.metrics.images == 1
    watched.clock.look_seconds = 0.01
    watched.quality.look([job], 200.0)
    assert watched.quality.due == pytest.approx(200 + 0.01 / SHARE)
    # Of two roles each has half of it, as long as there are two.
    other = Watched("encode", MEAN)
    watched.looks.enter(other.quality)
    watched.quality.look([job], 300.0)
    assert watched.quality.due == pytest.approx(300 + 2 * 0.01 / SHARE)


def test_a_look_that_fails_is_said_once_and_no_harm(future: Any) -> None:
    watched = Watched("encode", MEAN)
    job = answered(future, {IMAGE: images(1, 0.4)}, {MEAN: np.zeros((1, Z + 1), np.float32)})
    with structlog.testing.capture_logs() as logged:
        for now in (1.0, 1e9):
            watched.quality.look([job], now)
    assert [line["event"] for line in logged] == ["a look at images failed, there are no more"]


def test_a_window_forgets() -> None:
    window = Window()
    for level in (5.0, 0.0):
        for _ in range(8 * WINDOW // LEAST):
            window.add(np.full((LEAST, 2), level))
    assert window.count == WINDOW
    np.testing.assert_allclose(window.mean, 0, atol=0.01)
    np.testing.assert_allclose(window.variance, 0, atol=0.02)


def test_large_samples_are_compared_by_some_of_their_values() -> None:
    repeats = Repeats()
    pixels = np.zeros((2, 100, 100, 3), np.uint8)
    pixels[1, :50] = 255
    assert repeats.add(pixels, np.array([[1, 0], [1, 1]])) == (1, 0)
    assert repeats.add(pixels, np.array([[2, 0], [2, 1]])) == (2, 2)
