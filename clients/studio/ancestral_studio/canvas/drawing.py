from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.element import Element
from nicegui.events import GenericEventArguments

from ancestral_studio.pixels import Picture, Shape, packed

# Half the pen's width, of an image's shorter side: about that of a pen on MNIST. In pixels it is no less than the
# other, or strokes between two columns would be pale.
_REACH, _LEAST_REACH = 1 / 26, 0.75
# Seconds between two events while a stroke goes on: models answer between them.
_THROTTLE = 0.1


class Drawing(Element, component="drawing.js", dependencies=["ancestral_pixels.js"]):
    """An image to draw on; `picture` is what is on it. `drawn` is called when the visitor changed it.

    What cannot be read of what the page sent leaves it as it was.
    """

    def __init__(self, label: str, drawn: Callable[[], Any]) -> None:
        super().__init__()
        self.picture = Picture.blank((1, 1, 1), known=True)
        self._drawn = drawn
        self.props["label"] = label
        self.pen((255,))
        self.on("drawn", self._changed, throttle=_THROTTLE)
        self.on("done", self._changed)

    @property
    def shape(self) -> Shape:
        height, width, channels = self.picture.pixels.shape
        return height, width, channels

    def load(self, picture: Picture) -> None:
        """Shows a picture, in place of what was drawn."""
        self.picture = picture
        self.props["reach"] = max(_LEAST_REACH, min(self.shape[:2]) * _REACH)
        self.run_method("load", *self.shape, packed(picture.pixels), packed(picture.known))

    def pen(self, ink: tuple[int, ...]) -> None:
        """A pen of a value for each channel, or the same for all."""
        self.props["ink"] = list(ink if len(ink) > 1 else ink * 3)
        self.props["eraser"] = False

    def eraser(self) -> None:
        """What it goes over is not known any more."""
        self.props["eraser"] = True

    def _changed(self, event: GenericEventArguments) -> Any:
        try:
            self.picture = Picture.sent(event.args, self.shape)
        except ValueError:
            return None  # of a shape that was there before, or of no page of ours
        return self._drawn()
