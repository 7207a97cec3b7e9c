"""The page: a tab for each panel, and what all of them say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nicegui import background_tasks, ui

from ancestral.text import shown
from ancestral_client import AsyncClient
from ancestral_studio.panels.completing import Completing
from ancestral_studio.panels.going import Going
from ancestral_studio.panels.looking import Looking
from ancestral_studio.panels.moving import Moving
from ancestral_studio.panels.sampling import Sampling
from ancestral_studio.panels.sliding import Sliding
from ancestral_studio.parts import Panel, labelled
from ancestral_studio.visit import LISTED, Visit

# Name of the tab, the panel, and what it is about in a sentence for somebody who sees it for the first time.
PANELS: tuple[tuple[str, Callable[[Visit], Panel], str], ...] = (
    (
        "Sample",
        Sampling,
        "Images that nobody drew: the model makes them up. A PixelCNN paints each pixel after those above and to the "
        "left of it, so they come row by row. Under each stands how likely the model finds it.",
    ),
    (
        "Complete",
        Completing,
        "Erase a part of an image, draw one of your own or bring a picture: the model draws the rest, in several ways. "
        "What you keep stays as it is; each new pixel follows from those before it, so keep the top rather than the "
        "bottom.",
    ),
    (
        "Look",
        Looking,
        "Draw something, or bring a picture: each model says what it makes of it. A VAE rebuilds it from a few "
        "numbers, its latents; a classifier names it, and the log-likelihood says how far it is what the model was "
        "trained on: higher is closer.",
    ),
    (
        "Map",
        Moving,
        "Every point of this map is an image, and neighbours look alike. Move over it, or use the arrow keys.",
    ),
    (
        "Sliders",
        Sliding,
        "A VAE describes an image by a few numbers, its latents. Move one and see what it stands for.",
    ),
    (
        "Between",
        Going,
        "Two images and the way from the one to the other through the latents: each step is an image of its own, and "
        "no mixture of the two.",
    ),
)

STYLE = Path(__file__).parent / "page.css"

# Seconds between two looks at which models are served: a reload is seen soon, and costs the server nothing.
_REFRESH_SECONDS = 5.0


class Page:
    """What one visitor sees. It belongs to the visitor's connection, and ends with it."""

    def __init__(self, client: AsyncClient) -> None:
        self._visit = Visit(client)
        ui.context.client.on_delete(self._visit.leave)
        ui.add_css(STYLE)
        ui.colors(primary="#3565a8")
        self._panels: dict[str, Panel] = {}
        self._sections: dict[str, ui.element] = {}
        with ui.element("div").classes("page"):
            self._header()
            self._problem = ui.label().classes("problem").props("role=alert")
            with ui.element("main"):
                for name, panel, sentence in PANELS:
                    with ui.element("section").classes("panel") as section:
                        section.props["aria-label"] = name
                        ui.label(sentence).classes("sentence")
                        with ui.element("div").classes("columns"):
                            self._panels[name] = panel(self._visit)
                    self._sections[name] = section
            self._footer()
        self._visit.on_news(self._tell)
        self._visit.on_choice(self._show)
        self._tell()
        self._open()
        ui.timer(_REFRESH_SECONDS, self._refresh)

    def _header(self) -> None:
        with ui.element("header"):
            ui.html("Ancestral studio", tag="h1", sanitize=False)
            ui.label(shown(self._visit.client.address)).classes("quiet")
            dark = ui.dark_mode(None)  # as the visitor's system has it, until they say otherwise
            light = labelled(ui.button(icon="contrast").props("flat round dense"), "Light or dark")
            is_dark = "() => emit(document.body.classList.contains('body--dark'))"
            light.on("click", lambda event: dark.set_value(not event.args), js_handler=is_dark)
        self._tabs = ui.tabs(on_change=self._open).props(
            "no-caps dense inline-label align=left outside-arrows mobile-arrows"
        )
        with self._tabs:
            for name, _, _ in PANELS:
                ui.tab(name)
        self._tabs.set_value(PANELS[0][0])

    def _footer(self) -> None:
        with ui.element("footer"):
            self._last = ui.label().props("role=status")
            self._list = ui.expansion("Latest calls").props("dense")
            with self._list:
                self._calls = [ui.label() for _ in range(LISTED)]
            self._list.on_value_change(self._tell)

    def _open(self) -> None:
        chosen = self._tabs.value
        for name, section in self._sections.items():
            section.set_visibility(name == chosen)
        self._show()

    def _show(self) -> None:
        """Has the open panel brought up to date. In a task of its own, which the visitor may end by another wish."""
        panel = self._panels.get(str(self._tabs.value))
        if panel is not None:
            background_tasks.create(panel.show(), name="show", context=ui.context.client)

    async def _refresh(self) -> None:
        before = {model.name for model in self._visit.models}
        await self._visit.refresh()
        for name in sorted(before - {model.name for model in self._visit.models}):
            # Until it is read: choices have changed by themselves.
            ui.notify(f"{shown(name)} is not served any more", type="warning", timeout=0, close_button="OK")
        self._show()

    def _tell(self) -> None:
        problem = self._visit.problem
        self._problem.set_text(problem)
        self._problem.set_visibility(bool(problem))
        calls = self._visit.calls
        self._last.set_text(
            calls[0].line() if calls else "Each call is told here: how long it took, and in which batch."
        )
        if self._list.value:
            for label, call in zip(self._calls, calls, strict=False):
                label.set_text(call.line())
