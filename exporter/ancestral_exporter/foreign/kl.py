"""An `AutoencoderKL` of diffusers as a model of a bundle: `encode` to a scaled latent, `decode` from it.

diffusers is no dependency of ours: what is needed of it is a module with `encoder`, `quant_conv`, `decode` and
`config`.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.text import one_line
from ancestral.v1 import bundle_pb2
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.foreign.source import digest
from ancestral_exporter.models.base import ImageShape, OneShotGraph
from ancestral_exporter.models.roles import image_tensor, one_shot, tensor

_CLASS = "AutoencoderKL"
_CONFIG = "config.json"
# The bounds of diffusers' DiagonalGaussianDistribution.
_LOG_VARIANCES = (-30.0, 20.0)


@dataclass(frozen=True)
class Latents:
    """Of an autoencoder: the shape [c,h,w], and the (z - shift) · scale that a diffusion model is trained on."""

    shape: tuple[int, int, int]
    scale: float
    shift: float


class Encode(nn.Module):
    """Images [N,H,W,C] uint8 to mean and log-variance [N,Z] of the scaled latent."""

    def __init__(self, net: Any, latents: Latents) -> None:
        super().__init__()
        self.net, self.latents = net, latents

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # `encode()` would make a distribution, which is nothing to export.
        moments = self.net.encoder(image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1)
        if self.net.quant_conv is not None:
            moments = self.net.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        mean = (mean - self.latents.shift) * self.latents.scale
        log_variance = log_variance.clamp(*_LOG_VARIANCES) + 2 * math.log(self.latents.scale)
        return mean.flatten(1), log_variance.flatten(1)


class Decode(nn.Module):
    """Scaled latents [N,Z] to images [N,H,W,C] uint8."""

    def __init__(self, net: Any, latents: Latents) -> None:
        super().__init__()
        self.net, self.latents = net, latents

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        z = latent.reshape(-1, *self.latents.shape) / self.latents.scale + self.latents.shift
        image = self.net.decode(z, return_dict=False)[0]
        return (torch.clamp(torch.round((image + 1) * 127.5), 0, 255).to(torch.uint8).permute(0, 2, 3, 1),)


@dataclass(frozen=True)
class KLModel:
    """A `Bundled` of two graphs. assumed, origin: as of `write.Foreign`."""

    image: ImageShape
    net: Any
    latents: Latents
    origin: Mapping[str, str]
    family: str = "autoencoder-kl"
    label_count: int = 0

    @property
    def latent_size(self) -> int:
        return math.prod(self.latents.shape)

    @property
    def assumed(self) -> Sequence[str]:
        c, h, w = self.latents.shape
        return (
            "images scaled to [-1,1]",
            f"latents of {c}×{h}×{w}, made flat, as (z - {self.latents.shift:g}) · {self.latents.scale:g}",
        )

    def graphs(self) -> list[OneShotGraph]:
        image = image_tensor(self.image)
        size = (self.latent_size,)
        moments = [
            tensor("mean", bundle_pb2.MEANING_MEAN, size),
            tensor("log_variance", bundle_pb2.MEANING_LOG_VARIANCE, size),
        ]
        latent = tensor("latent", bundle_pb2.MEANING_LATENT, size)
        return [
            one_shot("encode", [image], moments, Encode(self.net, self.latents), in_order=False),
            one_shot("decode", [latent], [image], Decode(self.net, self.latents), in_order=False),
        ]


def around_net(net: Any, size: tuple[int, int] | None, origin: Mapping[str, str]) -> KLModel:
    """Of a net with the interface of AutoencoderKL and images of H, W, by default those that its config names.

    Raises UsageError for a size that it cannot have.
    """
    config = net.config
    if size is None:
        side = getattr(config, "sample_size", None)
        if side is None:
            raise UsageError("its config names no sample_size; say --size HEIGHTxWIDTH")
        size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    if config.in_channels != config.out_channels:
        raise ExporterError(f"it takes {config.in_channels} channels and gives {config.out_channels}: no images of one")
    net = net.float().eval()
    image = ImageShape(*size, config.in_channels, 256)
    # Each level but one halves the image; what comes out must be as large as what went in.
    step = 2 ** (len(config.block_out_channels) - 1)
    if any(side % step for side in size):
        raise UsageError(f"--size {size[0]}x{size[1]}: both must be multiples of {step}")
    shape = (config.latent_channels, size[0] // step, size[1] // step)
    scale, shift = getattr(config, "scaling_factor", None), getattr(config, "shift_factor", None)
    return KLModel(image, net, Latents(shape, scale or 1.0, shift or 0.0), origin)


def build(folder: Path, size: tuple[int, int] | None) -> KLModel:
    """Read a folder that diffusers has saved, of an AutoencoderKL or of a pipeline that has one. Nothing is fetched."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    within = folder if (folder / _CONFIG).is_file() else folder / "vae"
    if not (within / _CONFIG).is_file():
        raise UsageError(f"{folder}: has no {_CONFIG} and no vae/{_CONFIG}: is no model that diffusers has saved")
    try:
        kind = json.loads((within / _CONFIG).read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{within / _CONFIG}: is no config of diffusers: {error}") from error
    if kind != _CLASS:
        raise UsageError(f"{within / _CONFIG}: is of {kind!r}; only {_CLASS} can be imported")
    try:
        diffusers = importlib.import_module("diffusers")
    except ImportError:
        raise ExporterError("importing from diffusers needs diffusers: pip install diffusers") from None
    try:
        net = getattr(diffusers, _CLASS).from_pretrained(str(within), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExporterError(f"{within}: diffusers does not load it: {one_line(error)}") from error
    origin = {"imported_from": folder.resolve().name, "imported_producer": f"diffusers {diffusers.__version__}"}
    weights = sorted((*within.glob("*.safetensors"), *within.glob("*.bin")))
    origin |= {"imported_sha256": ", ".join(f"{path.name} {digest(path)}" for path in weights[:10])}
    try:
        return around_net(net, size, origin)
    except UsageError as error:
        raise UsageError(f"{within}: {error}") from error
