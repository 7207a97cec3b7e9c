"""The digits are split as in the literature; idx files are read, or refused with the file's name."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from ancestral_exporter.data import DataSettings, binarise, load, shape
from ancestral_exporter.data.mnist import find_idx, read_idx
from ancestral_exporter.errors import DataError, UsageError

IMAGES = "train-images-idx3-ubyte"
NAMES = (IMAGES, "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_digits_are_the_published_split() -> None:
    data = load(DataSettings("digits"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1000, 350, 447]
    values, labels = sklearn_digits(return_X_y=True)
    images = np.concatenate([data.train.images, data.validation.images, data.test.images])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 1)
    # The bytes give back the values: nothing is lost.
    np.testing.assert_array_equal(np.rint(images.reshape(1797, 64) * (16 / 255)), values)
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.validation.labels, data.test.labels]), labels)
    assert data.image == shape(DataSettings("digits"))


@pytest.mark.parametrize(("compressed", "folder"), [(True, "."), (False, "mnist")])
def test_mnist_from_idx_files(tmp_path: Path, write_mnist: Callable[..., Path], compressed: bool, folder: str) -> None:
    write_mnist(tmp_path / folder, compressed=compressed)
    data = load(DataSettings("mnist"), tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10, 10_000, 5]
    assert data.image == shape(DataSettings("mnist"))
    grey = np.random.default_rng(0).integers(0, 256, (10_010, 28, 28))
    # Training images stay grey and are drawn when they are used; the others are drawn once, always alike.
    assert data.train.binarise
    np.testing.assert_array_equal(data.train.images[..., 0], grey[:10])
    np.testing.assert_array_equal(data.train.labels, np.arange(10))
    for part in (data.validation, data.test):
        assert not part.binarise
        assert set(np.unique(part.images)) == {0, 255}
    again = load(DataSettings("mnist"), tmp_path)
    np.testing.assert_array_equal(again.validation.images, data.validation.images)
    np.testing.assert_array_equal(again.test.images, data.test.images)
    # A pixel's probability is its intensity.
    assert abs((data.validation.images[..., 0] / 255 - grey[10:] / 255).mean()) < 1e-3


# How people have the four files: the folder and the name of each, from its part and kind.
LAYOUTS = {
    "dotted": "{part}-{kind}.idx{n}-ubyte",
    "torchvision": "MNIST/raw/{part}-{kind}-idx{n}-ubyte",
    "torchvision, below": "mnist/MNIST/raw/{part}-{kind}-idx{n}-ubyte.gz",
    "kaggle": "{part}-{kind}-idx{n}-ubyte/{part}-{kind}-idx{n}-ubyte",
    "kaggle, dotted, below": "archive/{part}-{kind}.idx{n}-ubyte/{part}-{kind}.idx{n}-ubyte",
    "capitals": "Data/{part}-{kind}-IDX{n}-UBYTE.GZ",
    "by part": "{part}/{part}-{kind}-idx{n}-ubyte",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_mnist_as_people_have_it(tmp_path: Path, layout: str) -> None:
    paths = lay_out(tmp_path, layout)
    assert find_idx(tmp_path, NAMES) == paths


def lay_out(folder: Path, layout: str) -> dict[str, Path]:
    """Makes the four files, empty, where a layout has them; returns their paths by their proper names."""
    paths = {}
    for part in ("train", "t10k"):
        for kind, dimensions in (("images", 3), ("labels", 1)):
            path = folder / layout.format(part=part, kind=kind, n=dimensions)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            paths[f"{part}-{kind}-idx{dimensions}-ubyte"] = path
    return paths


def test_the_files_are_of_one_place(tmp_path: Path) -> None:
    """Fashion-MNIST has the same names: neither set may fill a gap in the other."""
    raw = "raw/{part}-{kind}-idx{n}-ubyte"
    digits, fashion = (lay_out(tmp_path, f"{name}/{raw}") for name in ("MNIST", "FashionMNIST"))
    assert find_idx(tmp_path, NAMES) == digits
    digits["t10k-labels-idx1-ubyte"].unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: no such file"):
        find_idx(tmp_path, NAMES)
    (tmp_path / "MNIST").rename(tmp_path / "KMNIST")
    assert find_idx(tmp_path, NAMES) == fashion  # the only place that has all
    lay_out(tmp_path, f"KMNIST/{raw}")
    with pytest.raises(DataError, match=r"more than one set.*FashionMNIST/raw, .*KMNIST/raw$"):
        find_idx(tmp_path, NAMES)
    lay_out(tmp_path, "{part}-{kind}.idx{n}-ubyte.gz")
    shallowest = lay_out(tmp_path, "{part}-{kind}-idx{n}-ubyte")
    assert find_idx(tmp_path, NAMES) == shallowest  # and raw before .gz


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train-images-idx3-ubyte.zip", "near it lies train-images-idx3-ubyte.zip"),
        ("raw/train-images-idx3-ubyte (1).gz", r"near it lies raw/train-images-idx3-ubyte \(1\).gz"),
        ("mnist.npz", "there lies mnist.npz"),
    ],
)
def test_what_lies_near_is_told(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"^{tmp_path}/{IMAGES}: no such file.*{said}"):
        load(DataSettings("mnist"), tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, said in (("nothing", "there is no folder"), ("file", "is no folder"), ("empty", "no file lies there")):
        with pytest.raises(DataError, match=said):
            load(DataSettings("mnist"), tmp_path / name)


def test_binarise_keeps_black_and_white() -> None:
    grey = np.repeat(np.array([0, 51, 255], np.uint8), 20_000)
    drawn = binarise(grey, np.random.default_rng(0)).reshape(3, -1) / 255
    assert drawn[0].max() == 0
    assert drawn[2].min() == 1
    assert abs(drawn[1].mean() - 0.2) < 0.01


def test_missing_file_is_named_with_where_to_get_it(tmp_path: Path, write_mnist: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=f"{IMAGES}: no such file.*LeCun.*pass --data DIR"):
        load(DataSettings("mnist"), tmp_path)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: no such file"):
        load(DataSettings("mnist"), tmp_path)


def test_without_a_folder_the_help_is_given() -> None:
    with pytest.raises(DataError, match="pass --data DIR"):
        load(DataSettings("mnist"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "begins with nothing"),
        (b"<html>not found</html>", "not an idx file of bytes with 3 dimensions .*3c 68 74 6d, not 00 00 08 03"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 4) + bytes(9), f"9 bytes of data .* says {2**64}"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 28, 28) + bytes(100), "100 bytes of data where its header says 3920"),
        (struct.pack(">BBBB1I", 0, 0, 8, 1, 5) + bytes(5), "3 dimensions"),
        (gzip.compress(bytes(10_000), mtime=0)[:-20], "cannot be read"),
        (b"\x1f\x8b" + bytes(30), "cannot be read"),
    ],
)
def test_corrupt_files_are_named(
    tmp_path: Path, write_mnist: Callable[..., Path], content: bytes, problem: str
) -> None:
    write_mnist(tmp_path, train=0, test=0)
    (tmp_path / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz: .*{problem}"):
        load(DataSettings("mnist"), tmp_path)


def test_files_that_do_not_belong_together(tmp_path: Path, write_mnist: Callable[..., Path]) -> None:
    write_mnist(tmp_path / "a", train=20)
    write_mnist(tmp_path / "b", train=30)
    name = "train-labels-idx1-ubyte.gz"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(DataError, match="30 labels for the 20 images"):
        load(DataSettings("mnist"), tmp_path / "a")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: holds 30 images, .* more are needed"):
        load(DataSettings("mnist"), tmp_path / "b")
    write_mnist(tmp_path / "c", test=0)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: holds 0 images, at least 1 is needed"):
        load(DataSettings("mnist"), tmp_path / "c")
    write_mnist(tmp_path / "d", train=256, test=5)
    labels = struct.pack(">BBBBI5B", 0, 0, 8, 1, 5, 0, 1, 2, 3, 10)
    (tmp_path / "d" / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: holds label 10, they must be 0 to 9"):
        load(DataSettings("mnist"), tmp_path / "d")


def test_read_idx_gives_the_array(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 3, 4) + array.tobytes())
    np.testing.assert_array_equal(read_idx(tmp_path / "x", 3), array)


def test_unknown_data_set() -> None:
    with pytest.raises(
        UsageError, match=r"unknown data source 'cifar'; there are: digits, tiles, mnist, mnist-static, images"
    ):
        load(DataSettings("cifar"))


AMAT = {
    "train": "binarized_mnist_train.amat",
    "validation": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}


def write_amat(folder: Path) -> dict[str, np.ndarray]:
    """The three files of the statically binarised MNIST with few rows, one of them .gz; what is in them [N,784]."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = {
        part: random.integers(0, 2, (count, 784)) for part, count in (("train", 20), ("validation", 3), ("test", 2))
    }
    for part, values in rows.items():
        text = "".join(" ".join(map(str, row)) + " \n" for row in values.tolist()).encode()
        if part == "train":
            (folder / f"{AMAT[part]}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / AMAT[part]).write_bytes(text)
    return rows


@pytest.mark.parametrize("source", ["mnist-static", "images"])
def test_the_statically_binarised_mnist_has_its_published_split(tmp_path: Path, source: str) -> None:
    rows = write_amat(tmp_path / "below" / "binarized-mnist")
    found = load(DataSettings(source, levels=2), tmp_path)
    assert found.image == shape(DataSettings("mnist-static"))
    for part, values in rows.items():
        split = getattr(found, part)
        np.testing.assert_array_equal(split.images.reshape(-1, 784), values * 255)
        assert not split.binarise  # what was drawn once is never drawn again
    if source == "mnist-static":
        assert found.binarisation.startswith("static")
        assert "20 train, 3 validation, 2 test" in found.description


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"0 1 0\n", "line 1 has 3 digits, each must have 784"),
        (b"0 " * 784 + b"\n" + b"1 " * 785, "line 2 has 785 digits"),
        (b"0.5 " * 784, r"holds '\.'; it must be lines of 784 digits 0 or 1"),
        (b"", "line 1 has 0 digits"),
        (b"\x1f\x8b" + bytes(30), "cannot be read"),
    ],
)
def test_a_broken_text_file_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    write_amat(tmp_path / "amat")
    (tmp_path / "amat" / AMAT["test"]).write_bytes(content)
    with pytest.raises(DataError, match=f"{AMAT['test']}: .*{problem}"):
        load(DataSettings("mnist-static"), tmp_path)


def test_a_missing_text_file_is_told(tmp_path: Path) -> None:
    write_amat(tmp_path / "amat")
    (tmp_path / "amat" / AMAT["test"]).unlink()
    message = "binarized_mnist_test.amat: no such file .*near it lies .*Larochelle and Murray"
    with pytest.raises(DataError, match=message):
        load(DataSettings("mnist-static"), tmp_path)
    with pytest.raises(DataError, match="this recipe needs files: the statically binarised MNIST"):
        load(DataSettings("mnist-static"))
