from __future__ import annotations

from statistics import NormalDist

import numpy as np
from nicegui import ui

from ancestral_client import Model
from ancestral_studio import served
from ancestral_studio.canvas import Plane, Tiles
from ancestral_studio.parts import ModelChoice, signed
from ancestral_studio.turns import Latest, Turn
from ancestral_studio.visit import Visit

# Images along each side of the picture behind the pad: a phone's width holds so many that can be told apart.
_STEPS = 12
# The pad is the prior's quantiles, as the picture behind it; its rim is no farther out than this share of them.
_RIM = 0.5 / 64


class Moving:
    """A pad over the plane of two latents, and the image of the point where the visitor is."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._turn = visit, Turn()
        self._move = Latest(self._decode)
        self._shown: tuple[Model, int, int] | None = None
        need = "has two latents to move in: it takes the role decode, as digits-vae-2d has it"
        with ui.element("div").classes("controls"):
            self._choice = ModelChoice(visit, served.has_plane, need)
            with self._choice.body:
                self._plane = Plane("Latent plane", self._moved)
                with ui.row().classes("wide"):
                    self._across = ui.select({}, label="Across", on_change=self._visit.chosen).classes("half")
                    self._down = ui.select({}, label="Down", on_change=self._visit.chosen).classes("half")
        with ui.element("div").classes("result"):
            self._tiles = Tiles("Image at the point").classes("large")
            self._told = ui.label().classes("quiet").props('role="status"')

    async def show(self) -> None:
        model = self._choice.model
        if model is None:
            return
        self._offer_axes(model)
        view = (model, self._across.value, self._down.value)
        if view == self._shown or None in view:
            return
        self._shown = view
        if self._across.value == self._down.value:
            self._visit.tell(f"Across and Down: both are latent {self._across.value}, must be two different ones")
            return
        with self._turn:
            async with self._visit.asking("Manifold") as asked:
                decoded = await self._visit.client.manifold(model.name, steps=_STEPS, dimensions=view[1:])
                asked.answered(decoded.info)
                height, width, channels = decoded.images.shape[1:]
                rows = decoded.images.reshape(_STEPS, _STEPS, height, width, channels).swapaxes(1, 2)
                self._plane.show(rows.reshape(_STEPS * height, _STEPS * width, channels))
        if asked.info is None:
            self._shown = None  # to be tried again
            return
        await self._moved(0.5, 0.5)

    def _offer_axes(self, model: Model) -> None:
        names = {dimension: f"latent {dimension}" for dimension in range(model.latent_size)}
        for select, first in ((self._across, 0), (self._down, 1)):
            if select.options != names:
                select.set_options(names, value=select.value if select.value in names else first)
        for select in (self._across, self._down):
            select.set_visibility(model.latent_size > 2)

    async def _moved(self, x: float, y: float) -> None:
        await self._move((x, y))

    async def _decode(self, point: tuple[float, float]) -> None:
        if self._shown is None:
            return
        model, across, down = self._shown
        values = [NormalDist().inv_cdf(min(max(share, _RIM), 1 - _RIM)) for share in point]
        latent = np.zeros((1, model.latent_size), np.float32)
        latent[0, across], latent[0, down] = values
        async with self._visit.asking("Decode") as asked:
            decoded = await self._visit.client.decode(model.name, latent)
            asked.answered(decoded.info)
            self._tiles.images(decoded.images)
            place = " and ".join(f"latent {d} at {signed(v)}" for d, v in zip((across, down), values, strict=True))
            self._told.set_text(f"{place}{', the others at 0' if model.latent_size > 2 else ''}")
