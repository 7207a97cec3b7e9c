"""Which axes of a foreign tensor are height, width and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.errors import UsageError

# Channels that an image is taken to have where nobody says: grey, with alpha, colour, colour with alpha.
_MOST_CHANNELS = 4
Sizes = Sequence[int | None]


@dataclass(frozen=True)
class Layout:
    """Images [N,H,W,C] as a file has them: channels first or last, as `shape` without the batch axis."""

    image: tuple[int, int, int]
    first: bool
    shape: tuple[int, ...]

    def put(self, images: Array) -> Array:
        """Images [N,H,W,C] as the file takes them."""
        turned = np.transpose(images, (0, 3, 1, 2)) if self.first else images
        return np.ascontiguousarray(turned).reshape(-1, *self.shape)

    def take(self, values: Array) -> Array:
        """What the file gives, as [N,H,W,C]."""
        height, width, channels = self.image
        if self.first:
            return np.transpose(values.reshape(-1, channels, height, width), (0, 2, 3, 1))
        return values.reshape(-1, height, width, channels)

    @property
    def text(self) -> str:
        height, width, channels = self.image
        order = "" if channels == 1 else f", channels {'first' if self.first else 'last'}"
        return f"images of {height}×{width}×{channels}{order}"


def find_layout(where: str, sizes: Sizes, said: str | None, image: tuple[int, int, int] | None) -> Layout:
    """The layout of a tensor of these sizes, without its batch axis, None where the file leaves one open.

    said: "nchw", "nhwc" or None; image: H, W, C where the caller says them. Raises UsageError where it is not certain.
    """
    shown = f"{where} is [N,{','.join('?' if size is None else str(size) for size in sizes)}]"
    if len(sizes) == 1:
        return _flat(shown, sizes[0], said, image)
    options: dict[str, tuple[int | None, int | None, int | None]]
    if len(sizes) == 2:
        options = {"nhwc": (sizes[0], sizes[1], 1)}
    elif len(sizes) == 3:
        options = {"nchw": (sizes[1], sizes[2], sizes[0]), "nhwc": (sizes[0], sizes[1], sizes[2])}
    else:
        raise UsageError(f"{shown}: no batch of images [N,C,H,W] or [N,H,W,C]")
    fitting: dict[str, tuple[int | None, int | None, int | None]] = {}
    for name, hwc in options.items():
        if len(options) > 1 and said not in (None, name):
            continue
        if image is not None:
            fits = all(have in (None, want) for have, want in zip(hwc, image, strict=True))
        else:
            fits = said == name or (hwc[2] is not None and hwc[2] <= _MOST_CHANNELS)
        if fits:
            fitting[name] = hwc
    if not fitting:
        given = f" of --image {'x'.join(map(str, image))}" if image else ""
        raise UsageError(f"{shown}: no images{given}{f' in {said}' if said else ''}; say --layout, or --image HxWxC")
    if len(fitting) > 1:
        raise UsageError(f"{shown}: channels may be first or last; say --layout nchw or --layout nhwc")
    ((name, found),) = fitting.items()
    if image is None and None in found:
        raise UsageError(f"{shown}: the file leaves sizes open; say them with --image HEIGHTxWIDTHxCHANNELS")
    height, width, channels = image or (found[0] or 0, found[1] or 0, found[2] or 0)
    if len(sizes) == 2:
        return Layout((height, width, channels), False, (height, width))
    shape = (channels, height, width) if name == "nchw" else (height, width, channels)
    return Layout((height, width, channels), name == "nchw", shape)


def _flat(shown: str, size: int | None, said: str | None, image: tuple[int, int, int] | None) -> Layout:
    if image is None:
        raise UsageError(f"{shown}: flat images; say their size with --image HEIGHTxWIDTHxCHANNELS, such as 28x28x1")
    if size not in (None, math.prod(image)):
        raise UsageError(f"{shown}: --image {'x'.join(map(str, image))} has {math.prod(image)} values")
    if said is None and image[2] > 1:
        raise UsageError(f"{shown}: channels may be first or last; say --layout nchw or --layout nhwc")
    return Layout(image, said == "nchw", (math.prod(image),))


def read_sizes(option: str, text: str | None, example: str, count: int | None = None) -> tuple[int, ...] | None:
    """Sizes typed as 28x28x1. Raises UsageError."""
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if not all(part.isascii() and part.isdecimal() and 0 < len(part) < 8 and int(part) for part in parts) or (
        count is not None and len(parts) != count
    ):
        raise UsageError(f"{option} must be sizes such as {example}, not {text!r}")
    return tuple(map(int, parts))
