"""How bytes become the floats that a net was trained on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.errors import UsageError

# Of the ImageNet photographs, by channel, in [0,1]: what torchvision's classifiers subtract and divide by.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What bytes are divided by after a shift: a float is (byte - shift) / width.
_RANGES = {"0..1": (0.0, 255.0), "-1..1": (127.5, 127.5), "0..255": (0.0, 1.0), "imagenet": (0.0, 255.0)}


@dataclass(frozen=True)
class Scale:
    """A float is (byte - shift) / width, both one for all channels, or one for each."""

    shift: tuple[float, ...]
    width: tuple[float, ...]
    text: str

    def floats(self, images: Array) -> Array:
        """Of images [N,H,W,C] uint8, float32."""
        shift, width = self._arrays()
        floats: Array = (images.astype(np.float32) - shift) / width
        return floats

    def bytes(self, values: Array) -> Array:
        """Of floats [N,H,W,C], the nearest byte."""
        shift, width = self._arrays()
        levels: Array = np.clip(np.rint(values.astype(np.float32) * width + shift), 0, 255).astype(np.uint8)
        return levels

    def _arrays(self) -> tuple[Array, Array]:
        return np.array(self.shift, np.float32), np.array(self.width, np.float32)


def scale(name: str | None, mean: str | None, std: str | None, channels: int) -> Scale:
    """What the options --scale, --mean and --std say. Raises UsageError."""
    if name is None:
        known = ", ".join(_RANGES)
        raise UsageError(f"the file takes or gives floats: say which with --scale: {known}; --mean and --std go on top")
    if name not in _RANGES:
        raise UsageError(f"--scale must be one of {', '.join(_RANGES)}, not {name!r}")
    if name == "imagenet" and (mean or std):
        raise UsageError("--scale imagenet has a mean and a std of its own: give --scale 0..1 with --mean and --std")
    shift, width = _RANGES[name]
    means, stds = _IMAGENET if name == "imagenet" else (_numbers("--mean", mean, 0.0), _numbers("--std", std, 1.0))
    for option, values in (("--mean", means), ("--std", stds)):
        if len(values) not in (1, channels):
            what = f"{name} is" if name == "imagenet" else f"{option} has {len(values)} numbers,"
            raise UsageError(f"{what} for {len(values)} channels, and the images have {channels}")
    if min(stds) <= 0:
        raise UsageError(f"--std must be above 0, not {std}")
    count = max(len(means), len(stds))
    means, stds = (tuple(values) * (count // len(values)) for values in (means, stds))
    text = f"bytes as {name}"
    if mean or std:
        text += f", less {', '.join(f'{m:g}' for m in means)}, divided by {', '.join(f'{s:g}' for s in stds)}"
    return Scale(tuple(shift + width * m for m in means), tuple(width * s for s in stds), text)


def _numbers(option: str, text: str | None, otherwise: float) -> Sequence[float]:
    if text is None:
        return (otherwise,)
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be numbers such as 0.5 or 0.485,0.456,0.406, not {text!r}") from None
    if not np.isfinite(values).all():
        raise UsageError(f"{option} must be finite numbers, not {text!r}")
    return values
