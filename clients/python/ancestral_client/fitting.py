"""Images as a model takes them: their layout, their channels and, where the caller says how, their size. Pure.

Shapes: N images, H rows, W columns, C channels of the model's images; H', W' of images that may be of another size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ancestral_client import _arrays, pictures
from ancestral_client.errors import InvalidArgument

# How an image gets another size; `pictures.resized` says what each does.
Resize = Literal["crop", "fit", "stretch"]


class Misfit(ValueError):
    """What makes no image of the model; the message says why, and goes on after the name of what it is."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The images [H,W,C] that a model takes, `shape` being (H, W, C), and what becomes of those of another size."""

    model: str
    shape: tuple[int, int, int]
    resize: Resize | None = None
    """None: they are refused."""
    scale: float | None = None
    """What makes levels of 0 to 255 of arrays of other numbers; None: these are refused."""

    def picture(self, levels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
        """The image [H,W,C] of a picture's pixels [H',W'] or [H',W',3], and whether it lost its colours."""
        lost = self.shape[2] == 1 and pictures.in_colour(levels)
        return Fit(self.model, self.shape, self.resize).image(pictures.with_channels(levels, self.shape[2])), lost

    def image(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """The one image [H,W,C] of an array; Misfit as `images`, and where there are several."""
        batch = self.images(array)
        if len(batch) != 1:
            raise Misfit(f"holds {len(batch)} images, one is wanted")
        image: NDArray[np.uint8] = batch[0]
        return image

    def images(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """[N,H,W,C] of an array, [N,H',W',C] or one [H',W',C], for C = 1 also without the channel.

        Colours become their brightness for C = 1 (`loses_colours`), and grey three equal channels for C = 3.
        Misfit where it is none of these or empty, and for another size and other numbers where these are refused.
        """
        try:
            levels = _arrays.image_array("images", array, self.scale)
        except InvalidArgument as error:
            raise Misfit(error.violations[0].problem.replace("scale=", "--scale ")) from None
        batch = _arrays.image_batch(levels, self.shape)
        if batch is not None:
            return batch
        other = _arrays.images_of_any_size(levels, self.shape[2])
        if other is None and (unlike := _of_other_channels(levels, self.shape[2])) is not None:
            alike = [pictures.with_channels(image, self.shape[2]) for image in unlike]
            return self.images(np.stack(alike).reshape(*unlike.shape[:3], self.shape[2]))
        if other is None:
            raise Misfit(_arrays.misfit(levels, self.shape, self.model))
        if self.resize is None:
            held = "is" if len(other) == 1 else "holds images of"
            raise Misfit(
                f"{held} {other.shape[1]}×{other.shape[2]}, {self.model} takes {self.shape[0]}×{self.shape[1]}; "
                "--resize crop, fit or stretch makes it so"
            )
        try:
            return np.stack(
                [pictures.resized(image, self.shape[:2], self.resize).reshape(self.shape) for image in other]
            )
        except pictures.UnclearPicture as error:
            raise Misfit(str(error)) from None

    def loses_colours(self, array: NDArray[Any]) -> bool:
        """Whether `images` makes images in colour grey."""
        if self.shape[2] != 1 or _arrays.image_batch(array, self.shape) is not None:
            return False
        unlike = _of_other_channels(array, 1)
        return unlike is not None and any(map(pictures.in_colour, unlike))

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[H,W,C] of one mask, True for the pixels to keep; without channels it holds for all of them.

        One of another size is resized as its image is, and keeps nothing of what that adds around it.
        """
        batch = _arrays.mask_batch(mask, self.shape)
        plain = _arrays.images_of_any_size(mask, 1)
        if batch is None and self.resize is not None and plain is not None:
            grey = Fit(self.model, (*self.shape[:2], 1), self.resize)
            batch = _arrays.mask_batch(grey.images(plain * np.uint8(255)) > 127, self.shape)
        if batch is None or len(batch) != 1:
            raise Misfit(f"has shape {list(mask.shape)}, the model's images have {list(self.shape)}")
        known: NDArray[np.bool_] = batch[0]
        return known


def _of_other_channels(array: NDArray[Any], channels: int) -> NDArray[Any] | None:
    """Images in colour [N,H,W,3] for a model of one channel, grey ones [N,H,W] for one of three; None for all else."""
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-3] == channels):  # whose channels stand first
        return None
    if channels == 1 and array.ndim > 2 and array.shape[-1] == 3:
        return array.reshape(-1, *array.shape[-3:])
    if channels == 3 and (array.ndim < 4 or array.shape[-1] == 1):
        return array.reshape(-1, *array.shape[1:3]) if array.ndim > 2 else array[np.newaxis]
    return None
