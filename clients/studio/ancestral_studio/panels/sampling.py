from __future__ import annotations

from nicegui import ui

from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.panels.painting import paint
from ancestral_studio.parts import ClassChoice, ModelChoice, button, slider
from ancestral_studio.turns import Turn
from ancestral_studio.visit import Visit

# Temperature up to which samples are more than noise.
_HOTTEST = 2.0


class Sampling:
    """Grids of samples, painted as they come."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._turn = visit, Turn()
        need = "draws samples: its bundle needs the role sample"
        with ui.element("div").classes("controls"):
            self._choice = ModelChoice(visit, served.can("sample"), need)
            with self._choice.body:
                self._class = ClassChoice()
                self._count = ui.number("Images", value=16, min=1, max=served.MOST_SAMPLES, precision=0).classes("wide")
                self._seed = ui.number("Seed", placeholder="any", min=0, precision=0).classes("wide")
                self._temperature = slider("Temperature", 0, _HOTTEST, 0.05, 1, lambda: None)
                with ui.row():
                    button("Draw samples", self._draw, main=True)
                    button("Stop", self._turn.stop)
        with ui.element("div").classes("result"):
            self._tiles = Tiles("Samples")
            self._told = ui.label().classes("quiet")

    async def show(self) -> None:
        model = self._choice.model
        if model is None:
            return
        self._class.fit(model)
        self._count.max = served.most_samples(model)
        if model.limits is not None:
            self._temperature.props["max"] = min(_HOTTEST, model.limits.max_temperature)

    async def _draw(self) -> None:
        model = self._choice.model
        if model is None:
            return
        count, seed = self._count.value, self._seed.value
        most = served.most_samples(model)
        if count is None or not 1 <= count <= most:
            self._visit.tell(f"Images: is {count}, must be 1 to {most}")
            return
        with self._turn:
            async with self._visit.asking("Sample") as asked:
                self._tiles.begin(int(count), model.image_shape)
                self._told.set_text("")
                stream = self._visit.client.sample_stream(
                    model.name,
                    int(count),
                    seed=None if seed is None else int(seed),
                    temperature=self._temperature.value,
                    label=self._class.label,
                    progress=True,
                )
                last = await paint(stream, self._tiles, asked)
                if last is not None:
                    self._told.set_text(f"Seed {last.seed}: the same seed gives the same images.")
