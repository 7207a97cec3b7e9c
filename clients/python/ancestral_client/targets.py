"""Where a command writes: a file by its ending, a folder of pictures, or stdout.

Shapes: N images or answers, H rows, W columns, C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ancestral_client import files, parquet, pictures
from ancestral_client.replacing import FileProblem, check_writable, reason, replacing

FOLDER = "a folder that is there"
IMAGES = (".png", ".npy", ".npz", ".parquet", FOLDER)
"""What images are written to."""
ARRAYS = (".npz", ".npy", ".parquet")
"""What other arrays are."""
FULL = (".npz", ".parquet")
"""What holds several arrays."""

_STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Target:
    """`kind` is an ending, or FOLDER."""

    path: Path
    kind: str

    @property
    def is_stdout(self) -> bool:
        return self.path == _STDOUT

    def __str__(self) -> str:
        return "stdout" if self.is_stdout else str(self.path)

    def needs(self, option: str, asked: bool) -> None:
        """FileProblem if what is `asked` for by an option would be lost: not all files hold several arrays."""
        if asked and self.kind not in FULL:
            raise FileProblem(f"{option} needs --out {' or '.join(FULL)}: {self} holds one array")

    def write(
        self,
        arrays: Mapping[str, NDArray[Any] | None],
        *,
        names: Sequence[str] | None = None,
        grid: NDArray[np.uint8] | None = None,
        columns: int | None = None,
        first: int = 0,
    ) -> None:
        """Writes the arrays that are not None. FileProblem where that cannot be.

        .npz holds all by their names, .npy the first; .parquet has a row for each of N; a picture is a grid of the
        images [N,H,W,C] of `grid`, else of "images", in so many columns; a folder has a picture for each of "images",
        called by its number, from `first` on. `names` say where each of N comes from.
        """
        if self.kind == FOLDER:
            self._write_folder(arrays["images"], first)
        elif self.is_stdout:
            buffer = BytesIO()
            self._save(buffer, arrays, names, grid, columns)
            sys.stdout.buffer.write(buffer.getbuffer())
            sys.stdout.flush()
        else:
            with replacing(self.path) as file:
                self._save(file, arrays, names, grid, columns)

    def _save(
        self,
        file: IO[bytes],
        arrays: Mapping[str, NDArray[Any] | None],
        names: Sequence[str] | None,
        grid: NDArray[np.uint8] | None,
        columns: int | None,
    ) -> None:
        try:
            if self.kind == ".png":
                shown = arrays["images"] if grid is None else grid
                assert shown is not None, "a command that writes pictures has images"
                pictures.picture(pictures.grid(shown, columns)).save(file, "png")
            elif self.kind == ".parquet":
                parquet.write(file, arrays, names)
            else:
                named = {"files": np.array(names)} if names is not None and self.kind == ".npz" else {}
                files.save_arrays(file, self.kind, {**arrays, **named})
        except pictures.UnclearPicture as error:
            raise FileProblem(f"{self}: {error}; write .npy or .npz instead") from None

    def _write_folder(self, images: NDArray[np.uint8] | None, first: int) -> None:
        assert images is not None, "a command that writes pictures has images"
        digits = max(6, len(str(first + len(images) - 1)))
        for index, image in enumerate(images, first):
            numbered = self.path / f"{index:0{digits}}.png"
            try:
                pictures.picture(image).save(numbered, "png")
            except pictures.UnclearPicture as error:
                raise FileProblem(f"{self}: {error}; write .npy or .npz instead") from None
            except OSError as error:
                raise FileProblem(f"{numbered}: cannot be written: {reason(error)}") from error


def target(path: Path, kinds: Sequence[str], form: str | None = None, *, as_json: bool = False) -> Target:
    """Where `--out` says, of the kinds that a command can write; FileProblem unless that can be written.

    Asked before a long call, not after it. `form` is what stdout gets, by default .npy.
    """
    if path == _STDOUT:
        return _stdout(kinds, form, as_json=as_json)
    if form is not None:
        raise FileProblem(f"--format is for --out -; {path} is written as its name says")
    if FOLDER in kinds and path.is_dir() and path.suffix.lower() not in kinds:
        check_writable(path / "000000.png")
        return Target(path, FOLDER)
    kind = path.suffix.lower()
    if kind not in kinds:
        raise FileProblem(
            f"{path}: the name must end in {' or '.join(kinds).replace(f'or {FOLDER}', f'or be {FOLDER}')}"
        )
    if kind == parquet.SUFFIX:
        parquet.check(path)
    check_writable(path)
    return Target(path, kind)


def _stdout(kinds: Sequence[str], form: str | None, *, as_json: bool) -> Target:
    kind = f".{(form or 'npy').lower().removeprefix('.')}"
    if kind not in kinds:
        allowed = ", ".join(kind[1:] for kind in kinds if kind != FOLDER)
        raise FileProblem(f"--format: is {form or 'npy'!r}; must be one of {allowed}")
    if as_json:
        raise FileProblem("--json: is printed on stdout, where --out - writes too; choose one of them")
    if sys.stdout.isatty():
        raise FileProblem("--out -: stdout is a terminal; pipe it into a program, or name a file")
    if kind == parquet.SUFFIX:
        parquet.check("stdout")
    return Target(_STDOUT, kind)
