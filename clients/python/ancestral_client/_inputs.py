"""What commands are given in files and through stdin: images, masks, labels, arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral_client import _progress, _stdin, errors, files, items
from ancestral_client._outputs import warn
from ancestral_client.client import Client
from ancestral_client.fitting import Fit, Resize

# So many problems with single images are told in a line each; one more line says how many there are in all.
_TOLD = 10


def images(
    asked: Client,
    model: str,
    version: int,
    paths: Sequence[Path],
    *roles: str,
    on_error: str,
    resize: Resize | None,
    scale: float | None,
) -> items.Images:
    """The images of files and folders as the model takes them; stderr says what was left out or lost its colours.

    RoleNotSupported, before any is read, if the model lacks one of the roles.
    """
    items.check(paths)
    found = asked.model(model, version)
    if not math.prod(found.image_shape):  # its manifest could not be read: there is no size to hold the files to
        raise errors.Unavailable(f"{model} does not serve: {found.reason}")
    missing = next((role for role in roles if found.roles and role not in found.roles), None)
    if missing is not None:
        can = ", ".join(sorted(found.roles))
        raise errors.RoleNotSupported(f"model {model} (version {found.version}) has no role {missing!r}; it has {can}")
    read = items.read(paths, Fit(model, found.image_shape, resize, scale), skip=on_error == "skip", watched=_with_bar)
    for problem in read.problems[:_TOLD]:
        warn(f"left out: {problem}")
    if read.problems:
        warn(f"{len(read.problems)} of {read.total} images are left out")
    if read.coloured:
        more = f", as {len(read.coloured) - 1} more are" if len(read.coloured) > 1 else ""
        warn(f"{read.coloured[0]}: is in colour and is read as grey{more}")
    return read


def image(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """The one image of a file, or of stdin, [H,W,C]; stderr says so where it loses its colours."""
    with _stdin.as_file(path) as there:
        found, lost_colours = files.read_image(there, fit)
    if lost_colours:
        warn(f"{_stdin.name_of(path)}: is in colour and is read as grey")
    return found


def mask(path: Path, fit: Fit) -> NDArray[np.bool_]:
    """Which pixels a file, or stdin, says to keep, [H,W,C]."""
    with _stdin.as_file(path) as there:
        return files.read_mask(there, fit)


def array(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array of a file, or of stdin."""
    with _stdin.as_file(path) as there:
        return files.read_array(there, names)


def _with_bar(read: Iterable[items.Item]) -> Iterable[items.Item]:
    """The items, while a bar says how many were read; how many there are nobody knows before."""
    with _progress.told(progress=True, what="reading") as tell:
        for count, item in enumerate(read, 1):
            yield item
            tell(count, None)


def labels(text: str | None, given: items.Images | None = None) -> NDArray[Any] | int | None:
    """What `--labels` says: a number, or the array in a file; of the images of `given` those that were not left out."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        path = Path(text)
    if not files.holds_array(path):
        raise errors.invalid(
            "--labels", f"is {text!r}; must be a class (a whole number), or a .npy, .npz or idx file of them"
        )
    found = files.read_array(path, ("labels", "label", "y"))
    return found if given is None else given.of_kept(found)


@contextmanager
def wanting_labels(given: str | None) -> Iterator[None]:
    """Says how to give labels where none were, and the server finds fault with them."""
    try:
        yield
    except errors.InvalidArgument as error:
        if given is None and any(violation.field.split(".")[-1] == "labels" for violation in error.violations):
            problem = "not set; the model is class-conditional: --labels CLASS, or a .npy with one for each image"
            raise errors.invalid("labels", problem) from error
        raise
