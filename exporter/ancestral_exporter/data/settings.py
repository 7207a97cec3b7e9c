"""The `[data]` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from ancestral_exporter.models.base import Count, Positive

Part = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class DataSettings:
    """source: "digits", "tiles", "mnist", "mnist-static", or "images" for a person's own, which `--data` names.
    labelled: how many training images keep their label, as many of each class; the rest have -1. Unset: all do.
    labelled_copies: how often an epoch of training has each image that has a label, so that a few of them are seen
    often enough among many that have none. shift: pixels by which an image is moved, at most, up or down and to a side,
    anew each time that it is trained on; black comes in.

    The rest is of "images". size: (H, W) of what the model sees, and `resize` how an image gets there: `crop` its
    middle, `fit` all of it on black, or `stretch`. colour: "grey" or "rgb". Where size or colour are unset, the images
    decide, if they are all alike. levels: K intensities per channel. binarise: two levels, each pixel drawn with its
    intensity as the probability, anew each time that an image is trained on. validation, test: their shares of images.
    """

    source: str
    labelled: Positive | None = None
    labelled_copies: Positive = 1
    shift: Count = 0
    size: tuple[Positive, Positive] | None = None
    resize: Literal["crop", "fit", "stretch"] = "crop"
    colour: Literal["grey", "rgb"] | None = None
    levels: Annotated[int, Ge(2), Le(256)] = 256
    binarise: bool = False
    validation: Part = 0.1
    test: Part = 0.1

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave nothing to train on")
        if self.binarise and (self.levels != 2 or self.colour != "grey"):
            raise ValueError('binarise needs levels = 2 and colour = "grey"')
