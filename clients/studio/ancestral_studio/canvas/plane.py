from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nicegui.element import Element
from nicegui.events import GenericEventArguments
from numpy.typing import NDArray

from ancestral_studio.pixels import packed

# Seconds between two moves that are told: some 30 pictures a second.
_THROTTLE = 0.03


class Plane(Element, component="plane.js", dependencies=["ancestral_pixels.js"]):
    """A pad over a picture; `moved` is called with a point (x, y) of [0,1] × [0,1], (0, 0) at the top left."""

    def __init__(self, label: str, moved: Callable[[float, float], Any]) -> None:
        super().__init__()
        self.props["label"] = label
        self._moved = moved
        self.on("move", self._told, throttle=_THROTTLE)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Puts a picture [H,W,C] behind the pad."""
        self.run_method("picture", *picture.shape, packed(picture))

    def _told(self, event: GenericEventArguments) -> Any:
        try:
            x, y = float(event.args["x"]), float(event.args["y"])
        except (KeyError, TypeError, ValueError):
            return None  # of no page of ours
        if not (0 <= x <= 1 and 0 <= y <= 1):
            return None
        return self._moved(x, y)
