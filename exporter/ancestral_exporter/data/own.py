"""A person's own images as a data set: sized, coloured and quantised as the recipe says, and split by their content.

Letters: N images, H, W, C image axes, K levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ancestral.bundle import rules
from ancestral.text import shown
from ancestral_exporter.data import pictures
from ancestral_exporter.data.dataset import DYNAMIC, Dataset, Images, Part, Split, dynamically_binarised
from ancestral_exporter.data.readers import Item, Source
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import DataError
from ancestral_exporter.models.base import ImageShape

Progress = Callable[[int], None]
# The parts in the order in which a content's digest is dealt out.
_PARTS: tuple[Part, ...] = ("test", "validation", "train")


def shape(settings: DataSettings) -> ImageShape | None:
    """What the settings alone say of the images; None where they leave it to the images."""
    if settings.size is None or settings.colour is None:
        return None
    return ImageShape(*settings.size, 1 if settings.colour == "grey" else 3, settings.levels)


def load(settings: DataSettings, path: Path, progress: Progress = lambda _: None) -> Dataset:
    """The images of `path`; `progress` is called with how many were read so far.

    Size and colour are those of the settings, or of the images where all are alike. Each image belongs to the part that
    its content's hash says, the same on every machine and whatever else is there, unless the source has parts.
    Raises DataError: no image, images of different sizes without a size in the recipe, too few for the parts.
    """
    source = Source(path)
    size, colour = settings.size, settings.colour
    if size is None or colour is None:
        size, colour = _found(settings, source)
        source = Source(path)
    arrays: dict[Part, list[Images]] = {part: [] for part in _PARTS}
    labels: dict[Part, list[str]] = {part: [] for part in _PARTS}
    has_parts = False
    for count, item in enumerate(source.items(), 1):
        has_parts = has_parts or item.part is not None
        part = item.part or _part(item, settings)
        arrays[part].append(pictures.as_array(item.picture, size, colour, settings.resize))
        labels[part].append(item.label)
        progress(count)
    if has_parts:
        _split_off(arrays, labels, {"test": settings.test, "validation": settings.validation})
    total = sum(map(len, arrays.values()))
    if total == 0:
        raise DataError(f"{path}: no image{_why(source)}")
    for part in _PARTS:
        if not arrays[part]:
            raise DataError(
                f"{path}: of {total} images none falls into the {part} part; add images, or set data.validation and "
                "data.test to larger shares"
            )
    classes = sorted({label for names in labels.values() for label in names}, key=_class_order)
    _check_classes(path, classes)
    image = ImageShape(*size, 1 if colour == "grey" else 3, settings.levels)
    train, validation, test = (
        _as_split(arrays[part], [classes.index(label) for label in labels[part]], settings)
        for part in ("train", "validation", "test")
    )
    if settings.binarise:
        train, validation, test = dynamically_binarised(train, validation, test)
    named = tuple(classes) if len(classes) > 1 else ()
    told = f"; {len(named)} classes" if named else f"; all of one class, {shown(classes[0])}" if classes[0] else ""
    return Dataset(
        name=path.name,
        description=f"{total} images of {path.name}, {len(train)} to train on, {len(validation)} for validation, "
        f"{len(test)} for the test" + told,
        binarisation=DYNAMIC if settings.binarise else f"none: {settings.levels} levels per channel",
        image=image,
        train=train,
        validation=validation,
        test=test,
        classes=named,
        left_out=tuple(source.left_out),
    )


@dataclass(frozen=True)
class Look:
    """What a person's images are like. common: their sizes (H, W), the commonest first. levels: different intensities
    in them all, which a black-and-white scan has two of.
    """

    common: tuple[tuple[int, int], ...]
    colour: pictures.Colour
    levels: int


def look(source: Source) -> Look:
    """Read all images once. Raises DataError where there is none."""
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    seen = np.zeros(256, np.bool_)
    for item in source.items():
        sizes[item.picture.height, item.picture.width] += 1
        grey = grey and pictures.is_grey(item.picture)
        seen[np.asarray(item.picture)] = True
    if not sizes:
        raise DataError(f"{source.path}: no image{_why(source)}")
    common = tuple(size for size, _ in sizes.most_common())
    return Look(common, "grey" if grey else "rgb", max(2, int(seen.sum())))


def _found(settings: DataSettings, source: Source) -> tuple[tuple[int, int], pictures.Colour]:
    """The size and colour of the images themselves, where the settings leave them open."""
    found = look(source)
    if settings.size is None and len(found.common) > 1:
        there = ", ".join(f"{h}×{w}" for h, w in found.common[:3]) + (" and more" if len(found.common) > 3 else "")
        height, width = found.common[0]
        raise DataError(
            f"{source.path}: its images have different sizes ({there}); say which one to make of them, such as --set "
            f"data.size=[{height},{width}]"
        )
    return settings.size or found.common[0], settings.colour or found.colour


def _why(source: Source) -> str:
    if not source.left_out:
        return ""
    more = f" (and {len(source.left_out) - 1} more)" if len(source.left_out) > 1 else ""
    return f"; {source.left_out[0]}{more}"


def _part(item: Item, settings: DataSettings) -> Part:
    """By the first 64 bits of the content's digest, as a number in [0,1)."""
    position = int.from_bytes(item.digest[:8], "big") / 2**64
    if position < settings.test:
        return "test"
    return "validation" if position < settings.test + settings.validation else "train"


def _split_off(arrays: dict[Part, list[Images]], labels: dict[Part, list[str]], shares: dict[Part, float]) -> None:
    """Parts that a source lacks are the last of its training images, as is usual for MNIST."""
    for part, share in shares.items():
        count = round(share * len(arrays["train"]))
        if count and not arrays[part]:
            arrays["train"], arrays[part] = arrays["train"][:-count], arrays["train"][-count:]
            labels["train"], labels[part] = labels["train"][:-count], labels["train"][-count:]


def _check_classes(path: Path, classes: list[str]) -> None:
    """DataError unless a bundle can name these classes: told before a training, not after it."""
    if len(classes) < 2:
        return
    if "" in classes:
        there = ", ".join(map(shown, classes[1:6])) + (" and more" if len(classes) > 6 else "")
        raise DataError(
            f"{path}: some images have a class ({there}) and some have none; in a folder, move those that lie "
            "beside the folders of classes into one, or away"
        )
    problem = next(rules.class_name_problems(classes), None)
    if problem is not None:
        raise DataError(f"{path}: the names of its classes cannot be in a bundle: {problem}; rename it")


def _class_order(label: str) -> tuple[int, int, str]:
    """Numbers by size, then words by letters."""
    return (0, int(label), "") if label.isdecimal() else (1 if label else -1, 0, label)


def _as_split(arrays: list[Images], labels: list[int], settings: DataSettings) -> Split:
    images = np.stack(arrays)
    if not settings.binarise and settings.levels < 256:
        top = settings.levels - 1
        images = np.rint(np.rint(images.astype(np.float32) * top / 255) * 255 / top).astype(np.uint8)
    return Split(images, np.array(labels, np.int64))
