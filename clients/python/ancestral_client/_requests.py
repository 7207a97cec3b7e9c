"""What calls ask: arguments to requests. Every check that needs no server is made here. Pure."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import priority_pb2
from ancestral_client import _checks, _wire


class Requests:
    """Messages are to have at most so many bytes."""

    def __init__(self, max_message_bytes: int, priority: priority_pb2.Priority.ValueType) -> None:
        self._priority = priority
        self._max_message_bytes = max_message_bytes

    def sample(
        self,
        model: str,
        n: int,
        *,
        seed: int | None,
        first_index: int,
        temperature: float | None,
        label: int | None,
        version: int,
    ) -> pb.SampleRequest:
        """But for images to complete, which only the model's shape can fit."""
        return pb.SampleRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            count=_checks.count_of("count", n),
            # Drawn here and not by the server, so that a call that is tried again asks for the same images.
            seed=secrets.randbits(63) if seed is None else _checks.seed_of("seed", seed),
            first_index=_checks.first_index_of(first_index),
            temperature=None if temperature is None else _checks.temperature_of(temperature),
            label=None if label is None else _checks.label_of("label", label),
        )

    def encode(
        self, model: str, batch: NDArray[np.uint8], *, draw_seed: int | None, first_index: int, version: int
    ) -> pb.EncodeRequest:
        """Of images [N,H,W,C]."""
        _checks.fits_message("images", batch, self._max_message_bytes)
        return pb.EncodeRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            draw_seed=None if draw_seed is None else _checks.seed_of("draw_seed", draw_seed),
            first_index=_checks.first_index_of(first_index),
        )

    def score(
        self,
        model: str,
        batch: NDArray[np.uint8],
        *,
        seed: int,
        first_index: int,
        labels: list[int] | None,
        draws: int,
        version: int,
    ) -> pb.ScoreRequest:
        """Of images [N,H,W,C]."""
        _checks.fits_message("images", batch, self._max_message_bytes)
        return pb.ScoreRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            seed=_checks.seed_of("seed", seed),
            labels=labels,
            first_index=_checks.first_index_of(first_index),
            draws=_checks.count_of("draws", draws),
        )

    def features(
        self, model: str, batch: NDArray[np.uint8], *, include_map: bool, labels: list[int] | None, version: int
    ) -> pb.ExtractFeaturesRequest:
        """Of images [N,H,W,C]."""
        _checks.fits_message("images", batch, self._max_message_bytes)
        return pb.ExtractFeaturesRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            include_map=_checks.flag_of("include_map", include_map),
            labels=labels,
        )

    def classify(self, model: str, batch: NDArray[np.uint8], *, version: int) -> pb.ClassifyRequest:
        """Of images [N,H,W,C]."""
        _checks.fits_message("images", batch, self._max_message_bytes)
        return pb.ClassifyRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
        )

    def decode(self, model: str, latents: ArrayLike, *, include_variance: bool, version: int) -> pb.DecodeRequest:
        batch = _checks.latent_batch(latents)
        _checks.fits_message("latents", batch, self._max_message_bytes)
        return pb.DecodeRequest(
            model=_checks.name_of("model", model),
            version=_checks.version_of(version),
            priority=self._priority,
            latents=_wire.pack(batch),
            include_variance=_checks.flag_of("include_variance", include_variance),
        )
