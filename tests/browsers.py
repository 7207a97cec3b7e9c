"""A real Chromium for tests of pages. While it runs, no other event loop can in the same thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from waiting import PATIENCE

CHROMIUM = Path(__file__).parents[1] / ".tools" / "bin" / "chromium"
# It asks nobody for updates, and needs no sandbox: it sees pages of ours alone.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of .tools, ended with the block."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing: run 'make tools'"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, *, width: int = 1000, height: int = 800, script: str = "") -> Iterator[Page]:
    """A page of a visitor of its own, which runs `script` first. It asks no other machine, and says no error."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE * 1000)
    asked: list[str] = []
    errors: list[str] = []
    try:
        page = context.new_page()
        page.add_init_script(script)
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url.replace("ws:", "http:", 1)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        yield page
    finally:
        context.close()
    own = (f"http://{urlsplit(url).netloc}/", "data:", "blob:")
    assert {one for one in asked if not one.startswith(own)} == set()
    assert errors == []


def pixels(canvas: Locator) -> NDArray[np.uint8]:
    """What a canvas shows: [H,W,4], red, green, blue and how much covers what is behind it."""
    read = """
      (canvas) => {
        const {width, height} = canvas;
        return [height, width, Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data)];
      }
    """
    height, width, values = canvas.evaluate(read)
    return np.array(values, np.uint8).reshape(height, width, 4)
