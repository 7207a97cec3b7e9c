"""The programs to begin from: what their page does not run, and what they find. The page's commands run in
tests/architecture/test_readmes.py.
"""

from __future__ import annotations

import base64
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import notebooks
from ancestral_client import Client
from running import ServerProcess

EXAMPLES = Path(__file__).parents[3] / "clients" / "examples"


def test_each_has_its_place_on_the_page() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb"), *EXAMPLES.glob("*.png")):
        assert f"({path.name})" in page, path.name


def kinds(outputs: list[dict[str, Any]]) -> list[object]:
    """What a cell shows: kinds of output, and sizes of pictures."""
    found: list[object] = []
    for output in outputs:
        found.append(output["output_type"])
        if picture := output.get("data", {}).get("image/png"):
            found.append(Image.open(io.BytesIO(base64.b64decode(picture))).size)
    return found


def test_the_notebook_runs_and_shows_what_it_did(digits_server: ServerProcess) -> None:
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text())
    committed = [kinds(cell["outputs"]) for cell in notebooks.code_cells(notebook)]
    assert [kinds(outputs) for outputs in notebooks.run(notebook, digits_server.address)] == committed
    assert sum(isinstance(kind, tuple) for cell in committed for kind in cell) >= 6


def test_a_folder_is_encoded_and_what_cannot_be_read_is_named(
    digits_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8), np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / ("below" if number % 2 else "") / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    Image.new("RGB", (30, 20), "red").save(folder / "wide.jpg")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["encode_folder.py", *arguments, "--address", digits_server.address])
        runpy.run_path(str(EXAMPLES / "encode_folder.py"), run_name="__main__")

    run(str(folder), "--out", str(tmp_path / "encoded.npz"))
    said = capsys.readouterr()
    assert said.out.startswith("71 of 72 pictures as ")
    assert f"left out {folder / 'broken.png'}: " in said.err
    with np.load(tmp_path / "encoded.npz") as encoded, Client(digits_server.address) as client:
        where = {Path(file).name: mean for file, mean in zip(encoded["files"], encoded["mean"], strict=True)}
        np.testing.assert_array_equal(where["69.png"], client.encode("digits-vae", images[69]).mean[0])
        assert "wide.jpg" in where

    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="holds no pictures"):
        run(str(tmp_path / "empty"))
    (tmp_path / "empty" / "broken.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="none of its 1 pictures can be read"):
        run(str(tmp_path / "empty"))


def test_scores_of_the_unusual(monkeypatch: pytest.MonkeyPatch) -> None:
    unusual = runpy.run_path(str(EXAMPLES / "unusual.py"))
    noise = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    flat = np.full((3, 8, 8), 7, np.uint8)
    assert (unusual["compressed"](noise, 256) > unusual["compressed"](flat, 256)).all()
    np.testing.assert_array_equal(unusual["compressed"](flat, 2), unusual["compressed"](flat * 0, 2))
    assert unusual["area"](np.zeros(4), np.ones(3)) == 1
    assert unusual["area"](np.ones(4), np.zeros(3)) == 0
