"""A person's images, one by one: from a folder of pictures, an .npy or .npz file, idx or .amat files, or Parquet.

Each reader yields `Item`s and notes what it leaves out, and why; none holds more than one picture at a time, but for
arrays, which are mapped into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ancestral_exporter.data import pictures, static_mnist
from ancestral_exporter.data.dataset import Part
from ancestral_exporter.data.mnist import find_idx, holds_idx, read_idx
from ancestral_exporter.errors import DataError

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
# What an array of images is called in a file of several, the same as for a client; MedMNIST and Keras have parts.
_ARRAY_NAMES = ("images", "image", "x", "data", "arr_0")
_LABEL_NAMES = ("labels", "y", "targets", "arr_1")
_PART_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train_images", "x_train"),
    "validation": ("val_images", "x_val"),
    "test": ("test_images", "x_test"),
}
_IDX_PARTS: dict[Part, str] = {"train": "train", "test": "t10k"}
_NO_CLASS = "has no class, and others have one"
# A row group of Parquet is read in pieces of so many rows.
_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Item:
    """One picture: its class's name ("" where there are none), what it is called, and what identifies its content.

    part: where its source says to which part it belongs.
    """

    picture: Image.Image
    label: str
    name: str
    digest: bytes
    part: Part | None = None


@dataclass
class Source:
    """Where images come from. left_out: filled while `items` is read."""

    path: Path
    left_out: list[str] = field(default_factory=list)

    def items(self) -> Iterator[Item]:
        """Every image in a fixed order. Raises DataError where nothing of the source can be used."""
        path = self.path
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.is_dir():
            if holds_idx(path):
                return self._idx()
            if static_mnist.holds_amat(path):
                return self._amat()
            return self._folder()
        readers = {".npy": self._arrays, ".npz": self._arrays, ".parquet": self._parquet}
        if path.suffix.lower() not in readers:
            raise DataError(f"{path}: is neither a folder of pictures nor one of {', '.join(readers)}")
        return readers[path.suffix.lower()]()

    # ---- a folder of pictures, its subfolders being classes

    def _folder(self) -> Iterator[Item]:
        for path in self._files(self.path):
            name = path.relative_to(self.path).as_posix()
            if path.suffix.lower() not in _PICTURES:
                self.left_out.append(f"{name}: is no picture by its ending")
                continue
            if path.exists() and not path.is_file():  # a pipe could be read for ever
                self.left_out.append(f"{name}: is no file")
                continue
            try:
                content = path.read_bytes()
                picture = pictures.decode(content, name)
            except OSError as error:
                self.left_out.append(f"{name}: cannot be read ({error.strerror})")
            except DataError as error:
                self.left_out.append(str(error))
            else:
                inside = path.relative_to(self.path).parts[:-1]
                yield Item(picture, inside[0] if inside else "", name, hashlib.sha256(content).digest())

    def _files(self, folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
        """Every file below the folder in a fixed order, hidden ones left out. above: the folders that it lies in."""
        here = folder.resolve()
        name = folder.relative_to(self.path).as_posix()
        if here in above:
            self.left_out.append(f"{name}: leads back to a folder that it lies in")
            return
        try:
            entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            if not above:
                raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
            self.left_out.append(f"{name}: cannot be read ({error.strerror})")
            return
        folders = [path for path in entries if path.is_dir()]
        yield from sorted(set(entries).difference(folders))
        for path in folders:
            yield from self._files(path, above | {here})

    # ---- arrays

    def _arrays(self) -> Iterator[Item]:
        try:
            loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise DataError(f"{self.path}: cannot be read ({error})") from error
        if isinstance(loaded, np.ndarray):
            yield from self._of_array(loaded, None, self.path.name, None)
            return
        with loaded:
            parts = {part: name for part, names in _PART_NAMES.items() for name in names if name in loaded}
            if parts:
                for part, name in parts.items():
                    labels = name.replace("images", "labels").replace("x_", "y_")
                    yield from self._of_array(self._entry(loaded, name), self._labels(loaded, labels), name, part)
                return
            found = [name for name in _ARRAY_NAMES if name in loaded]
            if not found:
                there = ", ".join(loaded.files) or "nothing"
                raise DataError(
                    f"{self.path}: has no array called {', '.join(_ARRAY_NAMES)} or "
                    f"{', '.join(names[0] for names in _PART_NAMES.values())}; it has {there}"
                )
            labels = next((label for label in _LABEL_NAMES if label in loaded), "")
            yield from self._of_array(self._entry(loaded, found[0]), self._labels(loaded, labels), found[0], None)

    def _entry(self, loaded: Any, name: str) -> Any:
        try:
            return loaded[name]
        except Exception as error:
            raise DataError(f"{self.path}: {name} cannot be read ({error})") from error

    def _labels(self, loaded: Any, name: str) -> Any:
        return self._entry(loaded, name) if name in loaded else None

    def _of_array(self, images: Any, labels: Any, name: str, part: Part | None) -> Iterator[Item]:
        where = f"{self.path}: {name}"
        if images.dtype != np.uint8:
            raise DataError(
                f"{where} is {images.dtype}; images must be uint8, 0 to 255: for floats in [0,1] save "
                "(255 * images).round().astype('uint8')"
            )
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
            raise DataError(f"{where} has the shape {list(images.shape)}; it must be [N,H,W], [N,H,W,1] or [N,H,W,3]")
        if 0 in images.shape:
            raise DataError(f"{where} holds no image: its shape is {list(images.shape)}")
        if labels is not None:
            labels = np.asarray(labels)
            if labels.ndim == 2 and labels.shape[1] == 1:
                labels = labels[:, 0]
            if labels.shape != (len(images),):
                raise DataError(f"{where} has {len(images)} images, its labels the shape {list(labels.shape)}")
        names = [""] * len(images) if labels is None else [_label(label) for label in labels]
        labelled = any(names)
        for i in range(len(images)):
            if labelled and not names[i]:
                self.left_out.append(f"{name}[{i}]: {_NO_CLASS}")
                continue
            values = np.ascontiguousarray(images[i])
            picture = Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
            yield Item(picture, names[i], f"{name}[{i}]", hashlib.sha256(values.tobytes()).digest(), part)

    # ---- idx files, as MNIST and Fashion-MNIST have them

    def _idx(self) -> Iterator[Item]:
        names = {part: (f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte") for part, name in _IDX_PARTS.items()}
        paths = find_idx(self.path, tuple(name for pair in names.values() for name in pair))
        for part, (images, labels) in names.items():
            yield from self._of_array(read_idx(paths[images], 3), read_idx(paths[labels], 1), images, part)

    # ---- the text files of the statically binarised MNIST

    def _amat(self) -> Iterator[Item]:
        for part, images in static_mnist.read(self.path).items():
            yield from self._of_array(images, None, part, part)

    # ---- Parquet, as Hugging Face's data sets have it

    def _parquet(self) -> Iterator[Item]:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{self.path}: is not Parquet ({error})") from error
        with file:
            schema = file.schema_arrow
            column = _image_column(self.path, schema)
            label = next((name for name in ("label", "labels", "class") if name in schema.names), None)
            row = 0
            try:
                names = [_label(value) for value in file.read(columns=[label]).column(0).to_pylist()] if label else []
                labelled = any(names)
                for batch in file.iter_batches(_PARQUET_ROWS, columns=[column]):
                    for cell in batch.column(column):
                        name, label_name = f"{self.path.name} row {row}", names[row] if labelled else ""
                        row += 1
                        if labelled and not label_name:
                            self.left_out.append(f"{name}: {_NO_CLASS}")
                        elif (item := self._of_cell(cell.as_py(), name, label_name)) is not None:
                            yield item
            except (OSError, pyarrow.ArrowException) as error:  # a page that cannot be unpacked is an OSError
                raise DataError(f"{self.path}: row {row} cannot be read ({error})") from error

    def _of_cell(self, cell: Any, name: str, label: str) -> Item | None:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not content:
            path = cell.get("path") if isinstance(cell, dict) else None
            what = f"only the path {path!r}, and no bytes" if path else "nothing"
            self.left_out.append(f"{name}: holds {what}")
            return None
        try:
            return Item(pictures.decode(content, name), label, name, hashlib.sha256(content).digest())
        except DataError as error:
            self.left_out.append(str(error))
            return None


def _label(value: Any) -> str:
    """A class's name; "" where there is none, which is a NaN in a column of floats."""
    return "" if value is None or value != value else str(value)


def _image_column(path: Path, schema: Any) -> str:
    """The column of encoded pictures: bytes, or a struct with `bytes`. Raises DataError."""
    import pyarrow.types as types

    def holds_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    fitting = []
    for entry in schema:
        inner = entry.type
        if types.is_struct(inner) and inner.get_field_index("bytes") >= 0:
            inner = inner.field("bytes").type
        if holds_bytes(inner):
            fitting.append(entry.name)
    chosen = [name for name in ("image", "img", "picture") if name in fitting] or fitting
    if not chosen:
        there = ", ".join(f"{entry.name} ({entry.type})" for entry in schema)
        raise DataError(f"{path}: has no column of encoded pictures (bytes, or a struct with bytes); it has {there}")
    return str(chosen[0])
