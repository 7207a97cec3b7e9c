from __future__ import annotations

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from ancestral_client import AsyncClient, Model
from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.parts import ModelChoice, button, slider
from ancestral_studio.turns import Latest, Turn
from ancestral_studio.visit import Asked, Visit

# Sliders on the page: about a screen of a phone.
_SLIDERS = 12
# Ends of a slider, in standard deviations of the prior: beyond them lie 0.3 % of it.
_SPAN = 3.0
# Images by which latents are ordered; the order of those that tell most settles with some dozens.
_IMAGES = 64


class Sliding:
    """A slider for each of the latents that tell most, and the image that they make together."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._turn = visit, Turn()
        self._move = Latest(self._decode)
        self._shown: Model | None = None
        self._latent = np.zeros(0, np.float32)
        self._sliders: dict[int, ui.slider] = {}
        need = "decodes latents: its bundle needs the role decode"
        with ui.element("div").classes("controls"):
            self._choice = ModelChoice(visit, served.can("decode"), need)
            with self._choice.body:
                with ui.row():
                    button("Random", self._random, main=True)
                    button("All 0", self._zero)
                self._box = ui.element("div").classes("sliders")
        with ui.element("div").classes("result"):
            self._tiles = Tiles("Image of the sliders").classes("large")
            self._told = ui.label().classes("quiet")

    async def show(self) -> None:
        model = self._choice.model
        if model is None or model == self._shown:
            return
        self._shown = model
        self._latent = np.zeros(model.latent_size, np.float32)
        order = np.arange(model.latent_size)
        with self._turn:
            if served.has_latents(model) and model.latent_size > 1:
                async with self._visit.asking("Encode") as asked:
                    order = await most_telling(self._visit.client, model, asked)
        self._box.clear()
        with self._box:
            self._sliders = {int(dimension): self._slider(int(dimension)) for dimension in order[:_SLIDERS]}
        rest = model.latent_size - len(self._sliders)
        more = f" {rest} more stay as they are." if rest > 0 else ""
        self._told.set_text(f"Those that tell most of {_IMAGES} images come first.{more}")
        await self._move(self._latent)

    def _slider(self, dimension: int) -> ui.slider:
        return slider(f"Latent {dimension}", -_SPAN, _SPAN, 0.05, 0, lambda event: self._set(dimension, event.value))

    async def _set(self, dimension: int, value: float) -> None:
        if self._latent[dimension] == np.float32(value):
            return  # moved by `_place`
        self._latent[dimension] = value
        await self._move(self._latent.copy())

    async def _random(self) -> None:
        await self._place(np.random.default_rng().normal(size=len(self._latent)))

    async def _zero(self) -> None:
        await self._place(np.zeros(len(self._latent)))

    async def _place(self, latent: NDArray[np.float64]) -> None:
        self._latent = np.clip(latent, -_SPAN, _SPAN).astype(np.float32)
        for dimension, one in self._sliders.items():
            one.set_value(float(self._latent[dimension]))
        await self._move(self._latent.copy())

    async def _decode(self, latent: NDArray[np.float32]) -> None:
        model = self._shown
        if model is None or len(latent) != model.latent_size:
            return
        async with self._visit.asking("Decode") as asked:
            decoded = await self._visit.client.decode(model.name, latent)
            asked.answered(decoded.info)
            self._tiles.images(decoded.images)


async def most_telling(client: AsyncClient, model: Model, asked: Asked) -> NDArray[np.int64]:
    """The latents by how far their means differ between images of the model's own: what differs little is not used."""
    draws = np.random.default_rng(0).normal(size=(_IMAGES, model.latent_size))
    images = (await client.decode(model.name, draws)).images
    posterior = await client.encode(model.name, images)
    asked.answered(posterior.info)
    return np.argsort(-posterior.mean.std(axis=0), kind="stable")
