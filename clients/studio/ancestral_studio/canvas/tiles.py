from __future__ import annotations

import numpy as np
from nicegui.element import Element
from numpy.typing import NDArray

from ancestral_studio.pixels import Picture, Shape, packed


class Tiles(Element, component="tiles.js", dependencies=["ancestral_pixels.js"]):
    """Images side by side, each with a line under it, painted as they come. `label` is what a screen reader says."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.props["label"] = label

    def begin(self, count: int, shape: Shape) -> None:
        """So many empty images take the place of those that were there."""
        self.run_method("begin", count, *shape)

    def row(self, index: int, row: int, pixels: NDArray[np.uint8]) -> None:
        """Paints a row [W,C]."""
        self.run_method("rows", index, row, packed(pixels))

    def image(self, index: int, image: NDArray[np.uint8], line: str = "") -> None:
        """Paints an image [H,W,C], and the line under it."""
        self.run_method("rows", index, 0, packed(image))
        self.run_method("caption", index, line)

    def picture(self, index: int, picture: Picture) -> None:
        """Paints what is known of an image."""
        self.run_method("rows", index, 0, packed(picture.pixels), packed(picture.known))

    def images(self, images: NDArray[np.uint8]) -> None:
        """Shows images [N,H,W,C], in place of those that were there."""
        height, width, channels = images.shape[1:]
        self.begin(len(images), (height, width, channels))
        for index, image in enumerate(images):
            self.image(index, image)
