"""The arguments and options that several commands have, each in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ancestral_client import _arguments, fitting
from ancestral_client._reaching import complete_model

# Seconds: what `Client` has by default, too.
TIMEOUT = 60.0

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Name of the model; `ancestral models` lists them.", autocompletion=complete_model
    ),
]
ImageFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES",
        help="8-bit images: .npy, .npz ([N,H,W,C]; [N,H,W] for grey), idx, .parquet, pictures, folders of pictures; "
        "- is stdin, with any of them but a folder.",
    ),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="What becomes of an image that cannot be read or has another size: skip goes on without it."),
]
Resize = Annotated[
    fitting.Resize | None,
    typer.Option(help="Bring images to the model's size: crop what is beyond, fit on black, or stretch."),
]


def _scale(given: float | None) -> float | None:
    return None if given is None else _arguments.scale_of(given, "--scale")


Scale = Annotated[
    float | None,
    typer.Option(callback=_scale, help="Arrays are numbers, which times this are levels of 0 to 255: 255 for [0,1]."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help="What --out - writes: npy (the default), npz, parquet or png."),
]
ImagesOut = Annotated[
    Path,
    typer.Option(
        help="A grid of the images (.png), the images (.npy), they and all else (.npz, .parquet), a picture for each "
        "(a folder that is there), or - for stdout."
    ),
]
ONE_IMAGE = "a picture, .npy, .npz, or - for stdin"
Version = Annotated[int, typer.Option(help="Version of the model; 0 is the highest that is served.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the server listens.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the answer; inf: for ever.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same images; drawn if not given.")]
Temperature = Annotated[float | None, typer.Option(help="0: the most likely values; 1, the default: the model itself.")]
Label = Annotated[int | None, typer.Option(help="Class to draw from, of a class-conditional model.")]
Priority = Annotated[
    _arguments.Priority, typer.Option(help="batch: take what interactive calls leave over, and wait for it; for bulk.")
]
BulkPriority = Annotated[
    _arguments.Priority,
    typer.Option(help="interactive: do not stand back behind other calls, as bulk does by default."),
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="CLASS|FILE", help="class of all images, or a .npy, .npz or idx file with one for each."),
]
