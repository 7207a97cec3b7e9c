from __future__ import annotations

import asyncio

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from ancestral.text import shown
from ancestral_client import AsyncClient, InvalidArgument, Model, Scores
from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.easel import Easel
from ancestral_studio.parts import labelled, signed
from ancestral_studio.pixels import Shape
from ancestral_studio.turns import Latest
from ancestral_studio.visit import Asked, Visit

# Classes whose probabilities are shown, the most probable ones.
_CLASSES = 5
# Latents that are written down: what fits a card.
_LATENTS = 32
# Classes that a class-conditional model is asked about at once, each with a copy of the image.
_MOST_LABELS = 64


class Looking:
    """A drawing, and what every model for images of its size makes of it."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._look = Latest(self._ask)
        self._cards: list[_Card] = []
        with ui.element("div").classes("controls"):
            self._size = ui.select({}, label="Image size", on_change=self._visit.chosen).classes("wide")
            self._none = ui.label("No model that is served here encodes, classifies or scores images.")
            self._none.classes("quiet")
            self._body = ui.element("div").classes("body")
            with self._body:
                self._easel = Easel(visit, "Your drawing", self._changed)
        self._result = ui.element("div").classes("result cards")
        self._shown: tuple[Shape, list[Model]] | None = None
        visit.on_models(self._update)
        self._update()

    async def show(self) -> None:
        shape = self._size.value
        models = [model for model in self._visit.models if model.image_shape == shape and _looks(model)]
        if shape is None or (shape, models) == self._shown:
            return
        other = self._shown is None or self._shown[0] != shape
        self._shown = (shape, models)
        self._result.clear()
        with self._result:
            self._cards = [_Card(self._visit, model) for model in models]
        if other:
            self._easel.fit(shape, self._sampler())
            await self._easel.renew()
        await self._changed()

    def _update(self) -> None:
        shapes = sorted({model.image_shape for model in self._visit.models if _looks(model)})
        value = self._size.value if self._size.value in shapes else next(iter(shapes), None)
        self._size.set_options({shape: "×".join(map(str, shape)) for shape in shapes}, value=value)
        self._size.set_visibility(len(shapes) > 1)
        self._none.set_visibility(not shapes)
        self._body.set_visibility(bool(shapes))
        self._result.set_visibility(bool(shapes))

    def _sampler(self) -> Model | None:
        """A model that has images of this size; rather one that paints them than one that decodes them."""
        able = [
            model
            for model in self._visit.models
            if model.image_shape == self._size.value and {"sample", "decode"} & set(model.roles)
        ]
        return min(able, key=lambda model: model.latent_size, default=None)

    async def _changed(self) -> None:
        await self._look(self._easel.picture.pixels)

    async def _ask(self, image: NDArray[np.uint8]) -> None:
        await asyncio.gather(*(card.look(image) for card in self._cards if card.shape == image.shape))


class _Card:
    """What one model makes of an image."""

    def __init__(self, visit: Visit, model: Model) -> None:
        self._visit, self._model = visit, model
        self.shape = model.image_shape
        self._by_class = False
        with labelled(ui.element("section").classes("card"), shown(model.name)):
            ui.label(shown(model.name)).classes("title")
            self._problem = ui.label().classes("problem")
            self._problem.set_visibility(False)
            self._tiles = Tiles(f"Reconstruction by {shown(model.name)}")
            self._latents = ui.label().classes("quiet")
            self._likelihood = ui.label()
            self._classes = ui.element("div").classes("bars")

    async def look(self, image: NDArray[np.uint8]) -> None:
        """Asks for all that the model can say; a failure is told on the card."""
        self._tell("")
        model, client = self._model, self._visit.client
        if "encode" in model.roles:
            async with self._visit.asking("Encode", self._tell) as asked:
                posterior = await client.encode(model.name, image)
                asked.answered(posterior.info)
                self._show_latents(posterior.mean[0])
                if "decode" in model.roles:
                    decoded = await client.decode(model.name, posterior.mean, version=posterior.info.version)
                    self._tiles.images(decoded.images)
        if "classify" in model.roles:
            async with self._visit.asking("Classify", self._tell) as asked:
                found = await client.classify(model.name, image)
                asked.answered(found.info)
                names = found.class_names or tuple(map(str, range(found.probabilities.shape[1])))
                self._show_classes(found.probabilities[0], names)
        if "score" in model.roles:
            async with self._visit.asking("Score", self._tell) as asked:
                await self._score(client, image, asked)

    async def _score(self, client: AsyncClient, image: NDArray[np.uint8], asked: Asked) -> None:
        """The likelihood of an image; of a model that has only one for each class, all of them."""
        model = self._model
        if not self._by_class:
            try:
                scores = await client.score(model.name, image)
            except InvalidArgument as error:
                self._by_class = any(violation.field.endswith("labels") for violation in error.violations)
                if not self._by_class:
                    raise
            else:
                asked.answered(scores.info)
                self._likelihood.set_text(
                    f"log p(x) {_relation(scores)} {served.nats(float(scores.log_likelihood[0]))}"
                )
                return
        await self._score_by_class(client, image, asked)

    async def _score_by_class(self, client: AsyncClient, image: NDArray[np.uint8], asked: Asked) -> None:
        """The likelihood under the class that has the highest."""
        model, count = self._model, self._model.label_count
        if count > _MOST_LABELS:
            self._likelihood.set_text(f"{count} classes: too many to score an image under each")
            return
        scores = await client.score(model.name, np.repeat(image[np.newaxis], count, 0), labels=np.arange(count))
        asked.answered(scores.info)
        best = int(scores.log_likelihood.argmax())
        name, nats = served.class_options(model)[best], served.nats(float(scores.log_likelihood[best]))
        self._likelihood.set_text(f"log p(x | {name}) {_relation(scores)} {nats}, the highest of the classes")

    def _show_latents(self, mean: NDArray[np.floating]) -> None:
        rest = f" and {len(mean) - _LATENTS} more" if len(mean) > _LATENTS else ""
        self._latents.set_text(f"{len(mean)} latents: {', '.join(signed(float(z)) for z in mean[:_LATENTS])}{rest}")

    def _show_classes(self, probabilities: NDArray[np.floating], names: tuple[str, ...]) -> None:
        self._classes.clear()
        with self._classes:
            for label in np.argsort(-probabilities)[:_CLASSES]:
                share = float(probabilities[label])
                ui.label(shown(names[label])).classes("name")
                labelled(ui.linear_progress(share, show_value=False), f"{shown(names[label])}: {share:.0%}")
                ui.label(f"{share:.0%}").classes("number")

    def _tell(self, problem: str) -> None:
        self._problem.set_text(problem)
        self._problem.set_visibility(bool(problem))


def _relation(scores: Scores) -> str:
    return "=" if scores.exact else "≥"


def _looks(model: Model) -> bool:
    """Whether there is anything that it says about images."""
    return served.drawable(model) and bool({"encode", "classify", "score"} & set(model.roles))
