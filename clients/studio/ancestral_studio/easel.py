"""A drawing with its tools; a sample, or a picture of the visitor's own, to begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nicegui import ui
from nicegui.events import UploadEventArguments

from ancestral.text import shown
from ancestral_client import Model
from ancestral_client.replacing import FileProblem
from ancestral_studio import own
from ancestral_studio.canvas import Drawing
from ancestral_studio.examples import example
from ancestral_studio.parts import button, labelled, toggle
from ancestral_studio.pixels import Picture, Shape
from ancestral_studio.turns import Turn
from ancestral_studio.visit import Visit

_PENS = {"white": (255,), "black": (0,)}
# Reads the pictures of all visitors, one after the other: a large one takes a second, and much memory.
_READER = ThreadPoolExecutor(1, "pictures")


class Easel:
    """`changed` is called when there is another picture on it. With an `eraser`, parts of it may be unknown."""

    def __init__(
        self, visit: Visit, label: str, changed: Callable[[], Awaitable[None]], *, eraser: bool = False
    ) -> None:
        self._visit, self._changed, self._partial = visit, changed, eraser
        self._turn = Turn()
        self._source: Model | None = None
        self._drawing = Drawing(label, changed)
        names = {"white": "White pen", "black": "Black pen"} | ({"erase": "Eraser"} if eraser else {})
        self._tool = toggle("Tool", names, "erase" if eraser else "white", self._take)
        self._colour = labelled(ui.element("input").props("type=color value=#ffffff"), "Colour of the pen")
        self._colour.on("input", self._mix, js_handler="(event) => emit(event.target.value)")
        with ui.row():
            self._renew = button("A sample", self.renew)
            button("Clear", self._clear)
            self._upload = ui.upload(
                auto_upload=True, max_file_size=own.MOST_BYTES, on_upload=self._bring, on_rejected=self._refuse
            )
            # The browser's own choice of files is all that is seen of it.
            self._upload.classes("away").props("accept=image/* tabindex=-1 aria-hidden=true")
            pick = f"() => getElement({self._upload.id}).$refs.qRef.pickFiles()"
            button("Your picture", None).on("click", js_handler=pick)
        self._told = ui.label().classes("quiet").props("role=status")
        self._tell("")
        self._take()

    @property
    def picture(self) -> Picture:
        """What is on it."""
        return self._drawing.picture

    async def put(self, picture: Picture) -> None:
        """Puts another picture in the place of that which is on it."""
        self._tell("")
        self._drawing.load(picture)
        await self._changed()

    def fit(self, shape: Shape, source: Model | None) -> None:
        """Clears it for images of (H, W, C); `source` is the model that has samples of them, if one does."""
        self._source = source
        self._tell("")
        self._drawing.load(Picture.blank(shape, known=not self._partial))
        self._colour.set_visibility(shape[2] == 3)
        self._renew.set_visibility(source is not None)

    async def renew(self) -> None:
        """Puts a sample on it, where there is a model that has one."""
        source = self._source
        if source is None:
            return
        with self._turn:
            async with self._visit.asking("Sample") as asked:
                image = await example(self._visit.client, source, asked)
                if image.shape == self._drawing.shape:  # else another model was chosen meanwhile
                    await self.put(Picture.of(image))

    async def _bring(self, event: UploadEventArguments) -> None:
        """Puts a picture of the visitor's own on it."""
        if event.file.size() > own.MOST_BYTES:  # of no page of ours, which would not have sent it
            self._refuse()
            return
        self._upload.reset()  # the same may be chosen again
        name, shape = shown(event.file.name), self._drawing.shape
        with self._turn:
            content = await event.file.read()
            try:
                read = asyncio.get_running_loop().run_in_executor(_READER, own.image_of, name, content, shape)
                image, done = await read
            except FileProblem as error:
                self._visit.tell(f"Your picture: {error}")
                return
            if shape == self._drawing.shape:  # else another model was chosen meanwhile
                self._visit.tell("")
                await self.put(Picture.of(image))
                self._tell(done)

    def _refuse(self) -> None:
        self._upload.reset()
        self._visit.tell(f"Your picture: must be a picture of at most {own.MOST_BYTES >> 20} MB")

    def _tell(self, done: str) -> None:
        """Says what was done to the visitor's picture, as long as it is there."""
        self._told.set_text(shown(done))
        self._told.set_visibility(bool(done))

    async def _clear(self) -> None:
        self._turn.stop()
        await self.put(Picture.blank(self._drawing.shape, known=not self._partial))

    def _take(self) -> None:
        if self._tool.value in _PENS:
            self._drawing.pen(_PENS[self._tool.value])
        elif self._tool.value == "erase":
            self._drawing.eraser()

    def _mix(self, event: Any) -> None:
        try:
            red, green, blue = bytes.fromhex(str(event.args).removeprefix("#"))
        except ValueError:
            return  # of no page of ours
        self._tool.set_value(None)
        self._drawing.pen((red, green, blue))
