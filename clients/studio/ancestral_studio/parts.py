"""What panels are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from nicegui import ui
from nicegui.element import Element

from ancestral.text import shown
from ancestral_client import Model
from ancestral_studio import served
from ancestral_studio.served import Able
from ancestral_studio.visit import Visit

_Element = TypeVar("_Element", bound=Element)


class Panel(Protocol):
    """A part of the page, with a tab of its own."""

    async def show(self) -> None:
        """Brings it up to its model: called when it is opened, and when it is open and models change or another one is
        chosen.
        """


class ModelChoice:
    """A choice among the models that are able to do something, kept up with what is served.

    `need` goes on after "No model that is served here".
    """

    def __init__(self, visit: Visit, able: Able, need: str) -> None:
        self._visit, self._able, self._need = visit, able, need
        self._models: dict[str, Model] = {}
        self._select = ui.select({}, label="Model", on_change=self._on_change).classes("wide")
        self._about = ui.label().classes("quiet")
        self.body = ui.element("div").classes("body")
        """What there is to see only with a model."""
        visit.on_models(self._update)
        self._update()

    @property
    def model(self) -> Model | None:
        """The model that is chosen; None where none is able."""
        return self._models.get(self._select.value)

    def _update(self) -> None:
        before = self._select.value
        self._models = {model.name: model for model in self._visit.models if self._able(model)}
        value = before if before in self._models else next(iter(self._models), None)
        self._select.set_options({name: shown(name) for name in self._models}, value=value)
        self._select.set_visibility(bool(self._models))
        self.body.set_visibility(bool(self._models))
        self._describe()

    def _on_change(self) -> None:
        self._describe()
        self._visit.chosen()

    def _describe(self) -> None:
        model = self.model
        self._about.set_text(f"No model that is served here {self._need}." if model is None else served.about(model))


class ClassChoice:
    """The class to ask a class-conditional model for; not there for others."""

    def __init__(self) -> None:
        self._select = ui.select({}, label="Class").classes("wide")
        self._select.set_visibility(False)

    @property
    def label(self) -> int | None:
        value: int | None = self._select.value
        return value

    def fit(self, model: Model) -> None:
        """Offers the classes of a model."""
        options = served.class_options(model)
        value = self.label if self.label in options else next(iter(options), None)
        self._select.set_options(options, value=value)
        self._select.set_visibility(bool(options))


def labelled(element: _Element, label: str) -> _Element:
    """The element, with a name for screen readers."""
    element.props["aria-label"] = label
    return element


def button(text: str, act: Callable[..., Any] | None, *, main: bool = False) -> ui.button:
    """A button; the one that a panel is about is `main`."""
    made = ui.button(text, on_click=act).props("no-caps unelevated")
    return made if main else made.props("outline")


def toggle(label: str, names: dict[str, str], value: str, chosen: Callable[..., Any]) -> ui.toggle:
    """A choice of one of a few."""
    return labelled(ui.toggle(names, value=value, on_change=chosen).props("no-caps unelevated"), label)


def slider(label: str, low: float, high: float, step: float, value: float, moved: Callable[..., Any]) -> ui.slider:
    """A slider between its name and its value."""
    with ui.element("div").classes("slider"):
        ui.label(label)
        made = labelled(ui.slider(min=low, max=high, step=step, value=value, on_change=moved), label)
        ui.label().bind_text_from(made, "value", signed).classes("number")
    return made


def signed(number: float) -> str:
    """A number as sliders and pads show it."""
    return f"{number:.2f}".replace("-", "−")
