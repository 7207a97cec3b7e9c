"""The images of a command, one by one: of files of every kind, of folders of pictures, and of what stdin holds.

Shapes: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral_client import _stdin, files, parquet
from ancestral_client.cells import BadCell, Cell, content_of
from ancestral_client.fitting import Fit, Misfit
from ancestral_client.folders import files_below
from ancestral_client.replacing import FileProblem

# Of the many that Pillow opens the usual ones: a folder of images may hold icons and documents beside them.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
"""Endings of what is read of a folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture, or a file of images. `load` gives its array, of a picture levels [H,W] or [H,W,3], and whether it is
    one; FileProblem, beginning with `name`, where it cannot be read.
    """

    name: str
    load: Callable[[], tuple[NDArray[Any], bool]]


@dataclass(slots=True)
class Images:
    """Images [N,H,W,C] for a model, where they come from, and what was left out."""

    array: NDArray[np.uint8]
    named: bool
    """Whether each has a name that says more than its place in one array."""
    problems: list[str]
    """Of the items that were left out, in order."""
    coloured: list[str]
    """Pictures that are in colour and were made grey."""
    _sources: list[tuple[str, int]]
    _kept: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of the images that were kept, counted with those that were left out."""
    total: int = 0
    """How many there would be, if none was left out."""

    @property
    def names(self) -> list[str] | None:
        """What each image is called; None where it is just the next of an array."""
        if not self.named:
            return None
        return [name if count == 1 else f"{name}[{index}]" for name, count in self._sources for index in range(count)]

    @property
    def facts(self) -> dict[str, int]:
        """What a program wants to know of them."""
        return {"images": len(self.array), "left_out": len(self.problems)}

    def of_kept(self, values: ArrayLike) -> NDArray[Any]:
        """Of one value for each image, those of the images that were not left out; one for all stays as it is."""
        array = np.asarray(values)
        if array.ndim != 1 or len(array) != self.total or not self.problems:
            return array
        return np.concatenate([array[start:end] for start, end in self._kept])


def check(paths: Sequence[Path]) -> None:
    """FileProblem unless all are there; asked before a server is."""
    if paths.count(_stdin.STDIN) > 1:
        raise FileProblem("-: stands for stdin, which can be read once only")
    for path in paths:
        if path != _stdin.STDIN and not path.exists():
            raise FileProblem(f"{path}: no such file")


def read(
    paths: Sequence[Path],
    fit: Fit,
    *,
    skip: bool = False,
    watched: Callable[[Iterable[Item]], Iterable[Item]] = iter,
) -> Images:
    """All images of files and folders, in order, as a model takes them.

    FileProblem names the first that cannot be read or does not fit; with `skip` such ones are left out, and it is
    raised where none is left. `watched` is given the items as they are gone through.
    """
    parts: list[NDArray[np.uint8]] = []
    with ExitStack() as stack:
        there = [stack.enter_context(_stdin.as_file(path)) for path in paths]
        found = Images(np.empty(0, np.uint8), _have_names(there), [], [], [])
        spooled = next((str(place) for place, path in zip(there, paths, strict=True) if path == _stdin.STDIN), "stdin")

        def called(text: str) -> str:
            return text.replace(spooled, "stdin")

        for item in watched(items(there)):
            try:
                batch, in_colour = _fitted(item, fit)
            except FileProblem as error:
                if not skip:
                    going_on = "; --on-error skip goes on without it" if found.named else ""
                    raise FileProblem(f"{error}{going_on}") from None
                found.problems.append(called(str(error)))
                found.total += 1
                continue
            if in_colour:
                found.coloured.append(called(item.name))
            parts.append(batch)
            found._sources.append((called(item.name), len(batch)))
            found._kept.append((found.total, found.total + len(batch)))
            found.total += len(batch)
    if not parts:
        what = f"; the first: {found.problems[0]}" if found.problems else ""
        raise FileProblem(f"{', '.join(map(str, paths))}: none of {found.total} images can be used{what}")
    found.array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return found


def items(paths: Iterable[Path]) -> Iterator[Item]:
    """What files and folders hold, in a fixed order."""
    for path in paths:
        if path.is_dir():
            yield from _folder(path)
        elif path.suffix.lower() in parquet.SUFFIXES:
            for row, cell in parquet.pictures_of(path):
                name = f"{path}: row {row}"
                yield Item(name, partial(_of_row, name, cell))
        else:
            yield Item(str(path), partial(files.read_array_or_picture, path))


def _have_names(paths: Sequence[Path]) -> bool:
    """Whether images are told apart by more than their place in one file."""
    return len(paths) > 1 or any(path.is_dir() or path.suffix.lower() in parquet.SUFFIXES for path in paths)


def _of_row(name: str, cell: Cell) -> tuple[NDArray[np.uint8], bool]:
    assert not isinstance(cell, np.ndarray), "the column holds bytes"
    if not cell:
        raise FileProblem(f"{name}: holds no picture")
    try:
        return files.decoded(name, content_of(cell)), True
    except BadCell as error:
        raise FileProblem(f"{name}: {error}") from None


def _folder(folder: Path) -> Iterator[Item]:
    """The pictures of a folder and those below it by path, without hidden ones and what is none by its ending."""
    empty = True
    for path in files_below(folder):
        if path.suffix.lower() in PICTURES:
            empty = False
            yield Item(str(path), partial(files.read_array_or_picture, path))
    if empty:
        endings = ", ".join(sorted(PICTURES))
        raise FileProblem(f"{folder}: holds no picture ({endings}); name a file of arrays itself")


def _fitted(item: Item, fit: Fit) -> tuple[NDArray[np.uint8], bool]:
    """[N,H,W,C] of a picture or an array, and whether it lost its colours; FileProblem where it does not fit."""
    levels, is_picture = item.load()
    try:
        if not is_picture:
            return fit.images(levels), fit.loses_colours(levels)
        image, lost = fit.picture(levels)
    except Misfit as error:
        raise FileProblem(f"{item.name}: {error}") from None
    return image[np.newaxis], lost
