from __future__ import annotations

from dataclasses import replace

import numpy as np
from nicegui import ui

from ancestral_client import Model
from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.easel import Easel
from ancestral_studio.panels.painting import paint
from ancestral_studio.parts import ClassChoice, ModelChoice, button
from ancestral_studio.turns import Turn
from ancestral_studio.visit import Visit

# Ways to go on that are shown: enough to see how far they differ.
_COMPLETIONS = 8


class Completing:
    """An image of which the visitor keeps a part, and the ways in which a model goes on."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._turn = visit, Turn()
        self._shown: Model | None = None
        need = "completes images: that takes one which paints them pixel by pixel"
        with ui.element("div").classes("controls"):
            self._choice = ModelChoice(visit, served.completes, need)
            with self._choice.body:
                self._class = ClassChoice()
                self._easel = Easel(visit, "Image to complete", self._changed, eraser=True)
                with ui.row():
                    button("Erase the lower half", self._halve)
                with ui.row():
                    button("Complete", self._complete, main=True)
                    button("Stop", self._turn.stop)
        with ui.element("div").classes("result"):
            self._tiles = Tiles("Completions")

    async def show(self) -> None:
        model = self._choice.model
        if model is None or model == self._shown:
            return
        self._shown = model
        self._class.fit(model)
        self._easel.fit(model.image_shape, model)
        await self._easel.renew()

    async def _changed(self) -> None:
        """Completions of what was there go on."""

    async def _halve(self) -> None:
        picture = self._easel.picture
        upper = np.arange(len(picture.known))[:, np.newaxis] < len(picture.known) // 2
        await self._easel.put(replace(picture, known=picture.known & upper))

    async def _complete(self) -> None:
        model, picture = self._choice.model, self._easel.picture
        if model is None:
            return
        if picture.known.all():
            self._visit.tell("Complete: nothing is missing; erase a part of the image first")
            return
        count = min(_COMPLETIONS, served.most_samples(model))
        with self._turn:
            async with self._visit.asking("Complete") as asked:
                self._tiles.begin(count, model.image_shape)
                for index in range(count):
                    self._tiles.picture(index, picture)
                stream = self._visit.client.sample_stream(
                    model.name,
                    count,
                    label=self._class.label,
                    given=picture.pixels,
                    known=picture.known,
                    progress=True,
                )
                await paint(stream, self._tiles, asked)
