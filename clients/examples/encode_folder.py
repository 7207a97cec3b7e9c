"""Encodes the pictures of a folder, however many, and goes on where one cannot be read.

Pictures are read while the server computes, a few at a time, so memory does not grow with the folder; the results,
some hundred bytes each, are kept. `ancestral encode MODEL FOLDER --on-error skip` does it without any code, and
`ancestral bulk` for data sets that outlast a session: this shows how to do it in a program of your own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ancestral_client import Client, InvalidArgument, Model, pictures
from ancestral_client.fitting import Fit

AT_ONCE = 64  # pictures in a message
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default=os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500"))
    parser.add_argument("--model", default="digits-vae", help="a model that encodes")
    parser.add_argument("--out", type=Path, default=Path("encoded.npz"))
    arguments = parser.parse_args()

    files = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not files:
        sys.exit(f"{arguments.folder}: holds no pictures")
    read: list[str] = []
    with Client(arguments.address) as client:
        model = client.model(arguments.model)
        try:
            found = client.encode(model.name, batches(files, model, read), progress=True, version=model.version)
        except InvalidArgument:
            if read:
                raise
            sys.exit(f"{arguments.folder}: none of its {len(files)} pictures can be read")
    np.savez(arguments.out, mean=found.mean, files=np.array(read))  # [N,Z] and [N]
    print(f"{len(read)} of {len(files)} pictures as {found.mean.shape[1]} numbers each: wrote {arguments.out}")


def batches(files: list[Path], model: Model, read: list[str]) -> Iterator[NDArray[np.uint8]]:
    """The pictures as [n,H,W,C] for a model; `read` gets the name of each that could be used."""
    waiting: list[NDArray[np.uint8]] = []
    # The middle of each, scaled to the model's size, as `new-recipe` has it in training, too.
    fit = Fit(model.name, model.image_shape, "crop")
    for path in files:
        try:
            waiting.append(image(path, fit))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises, UnclearPicture, Misfit
            print(f"left out {path}: {error}", file=sys.stderr)
            continue
        read.append(str(path))
        if len(waiting) == AT_ONCE:
            yield np.stack(waiting)
            waiting.clear()
    if waiting:
        yield np.stack(waiting)


def image(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """[H,W,C] of a picture, read as by every command."""
    with Image.open(path) as picture:
        return fit.picture(pictures.pixels(picture))[0]


if __name__ == "__main__":
    main()
