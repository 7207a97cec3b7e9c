from __future__ import annotations

from typing import Literal

from nicegui import ui

from ancestral_client import Model
from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.easel import Easel
from ancestral_studio.parts import ModelChoice, toggle
from ancestral_studio.turns import Latest
from ancestral_studio.visit import Visit

# Images from one end to the other: two rows on a phone.
_STEPS = 10

Path = Literal["spherical", "linear"]


class Going:
    """The way from one image to another, through the latents of a model."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._shown: Model | None = None
        self._go = Latest(self._ask)
        need = "has latents to go through: that takes the roles encode and decode"
        with ui.element("div").classes("controls"):
            self._choice = ModelChoice(visit, served.has_latents, need)
            with self._choice.body:
                with ui.element("div").classes("pair"):
                    self._easels = [self._easel("From"), self._easel("To")]
                names = {"spherical": "Around 0", "linear": "Straight"}
                self._path = toggle("Way", names, "spherical", self._changed)
        with ui.element("div").classes("result"):
            self._tiles = Tiles("From the one image to the other")

    def _easel(self, name: str) -> Easel:
        with ui.element("div").classes("body"):
            ui.label(name).classes("title")
            return Easel(self._visit, f"Image {name.lower()} which to go", self._changed)

    async def show(self) -> None:
        model = self._choice.model
        if model is None or model == self._shown:
            return
        self._shown = model
        for easel in self._easels:
            easel.fit(model.image_shape, model)
        for easel in self._easels:
            await easel.renew()

    async def _changed(self) -> None:
        await self._go(self._path.value)

    async def _ask(self, path: Path) -> None:
        model = self._choice.model
        first, last = (easel.picture.pixels for easel in self._easels)
        if model is None or not first.shape == last.shape == model.image_shape:
            return  # another model was chosen meanwhile
        async with self._visit.asking("Interpolate") as asked:
            way = await self._visit.client.interpolate(model.name, first, last, steps=_STEPS, path=path)
            asked.answered(way.info)
            self._tiles.images(way.images)
