"""The pictures of the studio's page in its README, taken anew: `make studio-pictures`, after `make serve`.

`python tests/studiopictures.py FOLDER` writes them into FOLDER; they show the models of the server at ANCESTRAL_ADDRESS
(localhost:8500).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect
from sklearn.datasets import load_digits

from ancestral_client import Client
from ancestral_client.pictures import picture
from browsers import chromium, opened
from studiopage import WATCH, bring, choose, panel, studio, tiles
from waiting import PATIENCE

NAMES = ("sample.png", "complete.png", "look.png", "map.png", "phone.png")
# Images of a grid that is large enough to be half painted when the picture is taken.
_GRID = 24
_SEED = 7
# Of the digits of that seed one whose upper half may become several.
_INDEX = 4
# The bar at the top by which Quasar shows that a file is on its way.
_NO_BAR = "[...document.querySelectorAll('.q-loading-bar')].every((bar) => getComputedStyle(bar).opacity === '0')"
_PHONE = 390
"""Pixels, the width of most phones."""


@dataclass(frozen=True)
class Shown:
    """Which models the pictures show."""

    sampler: str = "mnist-pixelcnn-dilated"
    plane: str = "mnist-vae-2d"


def take(browser: Browser, url: str, client: Client, folder: Path, shown: Shown) -> None:
    """Write the pictures NAMES into a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        drawn, three = Path(temporary, "my-digit.png"), Path(temporary, "three.png")
        picture(client.sample(shown.sampler, 1, seed=_SEED, first_index=_INDEX).images[0]).save(drawn)
        picture(_a_three()).save(three)
        with _pictured(browser, url, folder / "sample.png") as page:
            _half_a_grid(page, shown)
        for name, width in (("complete.png", 960), ("phone.png", _PHONE)):
            with _pictured(browser, url, folder / name, width) as page:
                _completions(page, shown, drawn)
        with _pictured(browser, url, folder / "look.png") as page:
            look = panel(page, "Look")
            choose(page, look, "Image size", "8×8×1")
            bring(page, look, three)
            expect(look.get_by_text("taken as it is")).to_be_visible()
            expect(look.get_by_text("log p").first).to_be_visible()
        with _pictured(browser, url, folder / "map.png") as page:
            where = panel(page, "Map")
            choose(page, where, "Model", shown.plane)
            expect(tiles(where)).to_have_count(1)
            pad = where.get_by_role("application")
            for key in ("Home", "Shift+ArrowRight", "Shift+ArrowUp"):
                pad.press(key)
            expect(where.get_by_role("status")).not_to_contain_text("0.00")


def _a_three() -> NDArray[np.uint8]:
    """[8,8], of scikit-learn's digits."""
    digits = load_digits()
    return np.asarray(np.round(digits.images[digits.target == 3][0] * (255 / 16)), np.uint8)


@contextmanager
def _pictured(browser: Browser, url: str, path: Path, width: int = 960) -> Iterator[Page]:
    """A page of which a picture is taken at the end of the block, when all calls are answered."""
    with opened(browser, url, width=width, height=640, script=WATCH) as page:
        yield page
        page.wait_for_load_state("networkidle")
        page.mouse.move(0, 0)
        page.wait_for_function(_NO_BAR)
        page.screenshot(path=path, full_page=True)


def _half_a_grid(page: Page, shown: Shown) -> None:
    sample = panel(page, "Sample")
    choose(page, sample, "Model", shown.sampler)
    sample.get_by_label("Images").fill(str(_GRID))
    sample.get_by_label("Seed").fill(str(_SEED))
    sample.get_by_role("button", name="Draw samples").click()
    # Pressed in the page itself, so that the grid is not finished by then.
    page.evaluate(
        """(stop) => new Promise((done) => {
          const look = () => {
            const rows = window.painted.filter(([label, top, count]) => label === "image 1" && count === 1).length;
            const height = document.querySelector(".tiles canvas")?.height;
            if (rows > height / 2) { stop.click(); done(); } else requestAnimationFrame(look);
          };
          look();
        })""",
        sample.get_by_role("button", name="Stop").element_handle(),
    )


def _completions(page: Page, shown: Shown, digit: Path) -> None:
    complete = panel(page, "Complete")
    choose(page, complete, "Model", shown.sampler)
    bring(page, complete, digit)
    expect(complete.get_by_text("taken as it is")).to_be_visible()
    complete.get_by_role("button", name="Erase the lower half").click()
    complete.get_by_role("button", name="Complete", exact=True).click()
    expect(complete.locator("figcaption")).to_contain_text(["nats"] * 8)


def main(folder: Path) -> None:
    address = os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500")
    expect.set_options(timeout=PATIENCE * 1000)
    with chromium() as browser, studio(address) as url, Client(address) as client:
        take(browser, url, client, folder, Shown())
    print(f"wrote {', '.join(str(folder / name) for name in NAMES)}: look at them")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
