"""A model is given what it was trained on: trainings and clients read the same files as the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from ancestral_client import files, items
from ancestral_client.cells import BadCell, image_of
from ancestral_client.fitting import Fit, Resize
from ancestral_client.replacing import FileProblem
from ancestral_exporter.data import DataSettings, load
from ancestral_exporter.data.pictures import Colour, as_array, decode
from ancestral_exporter.errors import DataError
from ancestral_studio.own import image_of as image_of_visitor
from picturefiles import READ, REFUSED, Made, saved

# What becomes of pictures [4,6]: theirs, wider, and taller; grey and in colour.
SHAPES: tuple[tuple[int, int, int], ...] = ((4, 6, 1), (4, 6, 3), (5, 3, 1), (3, 7, 3))
RESIZES: tuple[Resize, ...] = ("crop", "fit", "stretch")


def content_of(made: Made) -> bytes:
    return made if isinstance(made, bytes) else saved(made, "png")


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_the_same_image_in_a_training_and_for_every_reader_of_a_client(name: str) -> None:
    content = content_of(READ[name][0]())
    for how in RESIZES:
        for shape in SHAPES:
            colour: Colour = "grey" if shape[2] == 1 else "rgb"
            trained = as_array(decode(content, name), shape[:2], colour, how)
            fit = Fit("m", shape, how)
            np.testing.assert_array_equal(fit.picture(files.decoded(name, content))[0], trained)
            np.testing.assert_array_equal(image_of(content, fit)[0], trained)
            if how == "crop":
                np.testing.assert_array_equal(image_of_visitor(name, content, shape)[0], trained)


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_no_training_takes_no_reader_of_a_client_takes(name: str) -> None:
    make, said = REFUSED[name]
    content = content_of(make())
    fit = Fit("m", (4, 6, 1))
    readers: dict[type[Exception], Callable[[], object]] = {
        DataError: lambda: decode(content, "x"),
        FileProblem: lambda: files.decoded("x", content),
        BadCell: lambda: image_of(content, fit),
    }
    for problem, read in readers.items():
        with pytest.raises(problem) as caught:
            read()
        assert said in str(caught.value)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def transparent(count: int) -> list[bytes]:
    """Files of pictures [6,4] in colours of different opacity."""
    return [saved(Image.fromarray(image), "png") for image in random(count, 6, 4, 4)]


def folder(path: Path) -> None:
    path.mkdir()
    for i, content in enumerate(transparent(30)):
        (path / f"{i}.png").write_bytes(content)


def table(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"image": transparent(30)}), path)


SOURCES: dict[str, Callable[[Path], None]] = {
    "pictures": folder,
    "pictures.parquet": table,
    "colours.npy": lambda path: np.save(path, random(30, 6, 7, 3)),
    "grey.npy": lambda path: np.save(path, random(30, 6, 7)),
    "grey-channel.npy": lambda path: np.save(path, random(30, 6, 7, 1)),
    "named.npz": lambda path: np.savez(path, data=random(30, 6, 7, 3), labels=np.zeros(30)),
}


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize("source", SOURCES)
def test_what_was_trained_on_can_be_encoded_and_is_the_same(
    tmp_path: Path, source: str, colour: Colour, how: Resize
) -> None:
    SOURCES[source](tmp_path / source)
    shape = (5, 5, 1 if colour == "grey" else 3)
    settings = DataSettings("images", size=(5, 5), colour=colour, resize=how, validation=0.3, test=0.3)
    data = load(settings, tmp_path / source)
    trained = {image.tobytes() for part in (data.train, data.validation, data.test) for image in part.images}
    read = items.read([tmp_path / source], Fit("m", shape, how))
    assert (data.left_out, read.problems, len(trained)) == ((), [], 30)
    assert {image.tobytes() for image in read.array} == trained
    # Colours that are lost are told, of pictures one by one and of a file of arrays at once.
    coloured = colour == "grey" and not source.startswith("grey")
    assert len(read.coloured) == (0 if not coloured else 30 if source.startswith("pictures") else 1)
