"""The studio and its page as tests use them: starts the command, finds what is on a tab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page

from waiting import PATIENCE

TABS = ("Sample", "Complete", "Look", "Map", "Sliders", "Between")
# Tells of each canvas what is painted on it: the label, the first row and the number of rows.
WATCH = """
  window.painted = [];
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (image, x, y) {
    window.painted.push([this.canvas.getAttribute("aria-label"), y, image.height]);
    return put.call(this, image, x, y);
  };
"""


@contextmanager
def studio(address: str) -> Iterator[str]:
    """Where the studio listens that asks the server at an address; ended as by Ctrl-C."""
    command = [str(Path(sys.executable).parent / "ancestral"), "--address", address, "studio", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("studio listening on http://127.0.0.1:"), line
        yield line.split()[3].rstrip(",")
    finally:
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")


def panel(page: Page, name: str) -> Locator:
    """The part of the page under a tab."""
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("region", name=name)


def choose(page: Page, where: Locator, label: str, option: str) -> None:
    where.get_by_label(label).click()
    page.get_by_role("option", name=option, exact=True).click()


def tiles(where: Locator) -> Locator:
    return where.locator(".tiles canvas")


def bring(page: Page, where: Locator, path: Path) -> None:
    """Chooses a file, by keys."""
    with page.expect_file_chooser() as chooser:
        where.get_by_role("button", name="Your picture").press("Enter")
    chooser.value.set_files(path)
