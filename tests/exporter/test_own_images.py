"""A person's own images, of whatever kind: read as people see them, split by content, what is left out named."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from ancestral_client import Client
from ancestral_exporter.cli import main
from ancestral_exporter.data import Dataset, DataSettings, load, pictures
from ancestral_exporter.errors import DataError
from ancestral_exporter.recipes import find, new
from picturefiles import tiff_of_12_bits
from running import PATIENT, ServerProcess
from waiting import until

SETTINGS = DataSettings("images", size=(8, 8), colour="rgb", levels=16)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def shapes(count: int, seed: int = 0) -> list[np.ndarray]:
    """Colour images [10,12,3]: a rectangle on a ground, all different."""
    random = np.random.default_rng(seed)
    images = []
    for i in range(count):
        image = np.full((10, 12, 3), random.integers(0, 256, 3), np.uint8)
        image[2 : 4 + i % 5, 3 : 6 + i % 4] = random.integers(0, 256, 3)
        images.append(image)
    return images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shells")


def write_folder(root: Path) -> Path:
    """600 colour PNGs in three subfolders, with a palette image, an RGBA, a 16-bit, a CMYK JPEG and two strays."""
    for i, image in enumerate(shapes(596)):
        home = root / ("cowrie", "limpet", "whelk")[i % 3]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(home / f"{i:03}.png")
    picture = Image.fromarray(shapes(1, seed=9)[0])
    picture.quantize(4).save(root / "whelk" / "palette.png")
    transparent = picture.convert("RGBA")
    transparent.putalpha(100)
    transparent.save(root / "whelk" / "transparent.png")
    Image.fromarray(np.full((10, 12), 40000, np.uint16)).save(root / "limpet" / "sixteen.png")
    picture.convert("CMYK").save(root / "cowrie" / "cmyk.jpg")
    (root / "cowrie" / "broken.png").write_bytes(b"\x89PNG and no more")
    (root / "notes.txt").write_text("found on the beach")
    return root


def test_a_folder_of_pictures(folder: Path) -> None:
    data = load(SETTINGS, folder)
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == 600
    assert 400 < len(data.train) < 540
    assert min(len(data.validation), len(data.test)) > 30
    assert data.classes == ("cowrie", "limpet", "whelk")
    assert data.image.hwc == (8, 8, 3)
    levels = np.rint(np.arange(16) * 255 / 15).astype(np.uint8)
    assert np.isin(data.train.images, levels).all()
    assert [line.split(":")[0] for line in data.left_out] == ["notes.txt", "cowrie/broken.png"]
    assert "600 images of shells" in data.description


def parts_of(data: Dataset) -> dict[bytes, str]:
    return {image.tobytes(): part for part in ("train", "validation", "test") for image in getattr(data, part).images}


def test_what_else_may_lie_in_a_folder(folder: Path) -> None:
    """Nothing is waited for, read twice or told by a traceback; a phone's picture with further views is a picture."""
    whelk = folder / "whelk"
    os.mkfifo(whelk / "pipe.png")
    (whelk / "again").symlink_to(folder)
    (folder / "limpet" / "whelks").symlink_to(whelk)
    (whelk / "limpets").symlink_to(folder / "limpet")
    (whelk / "gone.png").symlink_to("nowhere")
    picture = Image.fromarray(shapes(1, seed=33)[0])
    picture.save(whelk / "phone.jpg", format="MPO", save_all=True, append_images=[picture.resize((4, 4))])
    data = load(SETTINGS, folder)
    left_out = dict(line.split(": ", 1) for line in data.left_out)
    assert left_out["whelk/pipe.png"] == "is no file"
    assert left_out["whelk/again"] == "leads back to a folder that it lies in"
    assert left_out["whelk/limpets/whelks"] == left_out["whelk/again"]
    assert left_out["whelk/gone.png"] == "cannot be read (No such file or directory)"
    assert "whelk/phone.jpg" not in left_out
    # The two other links show what is in their folders once more: 200 images in limpet, 201 in whelk.
    assert f"{601 + 200 + 201} images" in data.description


def test_the_split_is_by_content(folder: Path, tmp_path: Path) -> None:
    """Other names, another order and further images move none from one part to another."""
    exact = dataclasses.replace(SETTINGS, size=(10, 12), levels=256)
    before = parts_of(load(exact, folder))
    other = tmp_path / "other"
    other.mkdir()
    for i, path in enumerate(sorted(folder.glob("*/[0-9]*.png"), reverse=True)):
        shutil.copy(path, other / f"renamed-{i}.png")
    for i, image in enumerate(shapes(50, seed=77)):
        Image.fromarray(image).save(other / f"further-{i}.png")
    after = parts_of(load(exact, other))
    common = before.keys() & after.keys()
    assert len(common) > 500
    assert all(before[image] == after[image] for image in common)
    assert load(exact, other).classes == ()


def decoded(image: Image.Image, **options: object) -> np.ndarray:
    return np.asarray(pictures.decode(png(image, **options), "x"))


def test_pictures_are_read_as_people_see_them() -> None:
    colour = Image.fromarray(shapes(1)[0])
    np.testing.assert_array_equal(decoded(colour), np.asarray(colour))
    four = colour.quantize(4)
    np.testing.assert_array_equal(decoded(four), np.asarray(four.convert("RGB")))
    # Half of black over white is grey.
    half = Image.new("RGBA", (3, 2), (0, 0, 0, 128))
    assert decoded(half).tolist() == [[[127] * 3] * 3] * 2
    grey = Image.new("LA", (3, 2), (0, 0))
    assert decoded(grey).min() == 255
    sixteen = Image.fromarray(np.array([[0, 257, 65535, 40000]], np.uint16))
    assert decoded(sixteen).tolist() == [[0, 1, 255, 156]]
    # 12 bits of a TIFF, which Pillow reads as they are.
    twelve = pictures.decode(tiff_of_12_bits([0, 16, 2048, 4095]), "x")
    assert np.asarray(twelve).tolist() == [[0, 1, 128, 255]]
    bits = Image.fromarray(np.array([[True, False]]))
    assert decoded(bits).tolist() == [[255, 0]]
    # EXIF says that the camera was turned: a wide picture is a tall one.
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decoded(colour, exif=turned).shape == (12, 10, 3)
    # Damaged EXIF hinders nobody from seeing the picture, and nobody hears of it.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
        assert decoded(colour, format="JPEG", exif=damaged).shape == (12, 10, 3)
    assert decoded(Image.new("LAB", (9, 8)), format="TIFF").shape == (8, 9, 3)
    jpeg = pictures.decode(png(colour.convert("CMYK"), format="JPEG", quality=100), "x")
    assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(colour)).mean() < 12


@pytest.mark.parametrize(("how", "edge"), [("crop", 200), ("fit", 0), ("stretch", 200)])
def test_sizes(how: pictures.Resize, edge: int) -> None:
    wide = Image.new("L", (40, 20), 200)
    array = pictures.as_array(wide, (8, 8), "grey", how)
    assert array.shape == (8, 8, 1)
    assert array[0, 0, 0] == edge
    assert array[4, 4, 0] == 200
    assert pictures.as_array(wide, (8, 8), "rgb", how).shape == (8, 8, 3)


def test_arrays_and_parquet_are_the_same_images(tmp_path: Path) -> None:
    images = shapes(100)
    labels = np.arange(100) % 3
    exact = DataSettings("images", levels=256, validation=0.2, test=0.2)
    np.savez(tmp_path / "shells.npz", images=np.stack(images), labels=labels)
    np.save(tmp_path / "shells.npy", np.stack(images))
    cells: list[dict[str, Any]] = [{"bytes": png(Image.fromarray(image)), "path": "x.png"} for image in images]
    cells[7] = {"bytes": None, "path": "elsewhere/7.png"}
    table = pyarrow.table({"image": cells, "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "shells.parquet")
    wanted = {image.tobytes() for image in images}
    for name in ("shells.npz", "shells.npy", "shells.parquet"):
        data = load(exact, tmp_path / name)
        found = parts_of(data)
        missing = {images[7].tobytes()} if name.endswith("parquet") else set()
        assert found.keys() == wanted - missing, name
        assert data.image.hwc == (10, 12, 3)
        assert data.classes == (() if name.endswith("npy") else ("0", "1", "2"))
        for image, label in zip(data.train.images, data.train.labels, strict=True):
            index = next(i for i in range(100) if np.array_equal(images[i], image))
            assert name.endswith("npy") or label == index % 3
    (left,) = load(exact, tmp_path / "shells.parquet").left_out
    assert left == "shells.parquet row 7: holds only the path 'elsewhere/7.png', and no bytes"


def test_images_without_a_class_among_others_are_left_out_and_named(tmp_path: Path) -> None:
    images = shapes(60)
    labels = [None if i == 7 else float(i % 3) for i in range(60)]
    np.savez(tmp_path / "shells.npz", images=np.stack(images), labels=np.array(labels, np.float64))
    cells = [png(Image.fromarray(image)) for image in images]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": labels}), tmp_path / "shells.parquet")
    settings = dataclasses.replace(SETTINGS, validation=0.3, test=0.3)
    for name, what in (("shells.npz", "images[7]"), ("shells.parquet", "shells.parquet row 7")):
        data = load(settings, tmp_path / name)
        assert (data.classes, data.left_out) == (("0.0", "1.0", "2.0"), (f"{what}: has no class, and others have one",))
    none = pyarrow.table({"image": cells, "label": pyarrow.array([None] * 60, pyarrow.string())})
    pyarrow.parquet.write_table(none, tmp_path / "none.parquet")
    data = load(settings, tmp_path / "none.parquet")
    assert (data.classes, data.left_out) == ((), ())


def test_a_page_of_parquet_that_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 10, 10, 3), dtype=np.uint8)
    table = pyarrow.table({"image": [png(Image.fromarray(image), format="BMP") for image in noise]})
    file = tmp_path / "spoilt.parquet"
    pyarrow.parquet.write_table(table, file, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"spoilt.parquet: row \d+ cannot be read \(") as caught:
        load(SETTINGS, file)
    assert "\n" not in str(caught.value)


def test_parts_of_the_source_are_kept(tmp_path: Path, write_mnist: Callable[..., Path]) -> None:
    images = np.stack(shapes(60))[..., 0]
    parts = {"train": images[:40], "val": images[40:50], "test": images[50:]}
    arrays = {f"{part}_images": values for part, values in parts.items()}
    arrays |= {f"{part}_labels": np.zeros((len(values), 1), np.uint8) for part, values in parts.items()}
    np.savez(tmp_path / "med.npz", allow_pickle=False, **arrays)
    data = load(DataSettings("images"), tmp_path / "med.npz")
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    np.testing.assert_array_equal(data.test.images[..., 0], images[50:])
    assert data.image.hwc == (10, 12, 1)
    fashion = load(DataSettings("images"), write_mnist(tmp_path / "fashion", train=100, test=20))
    assert (len(fashion.train), len(fashion.validation), len(fashion.test)) == (90, 10, 20)
    assert len(fashion.classes) == 10
    # A part that is not there is cut off the training images; one that is empty is a file that went wrong.
    np.savez(tmp_path / "keras.npz", x_train=images, y_train=np.arange(60) % 2)
    keras = load(DataSettings("images"), tmp_path / "keras.npz")
    assert (len(keras.train), len(keras.validation), len(keras.test)) == (49, 5, 6)
    np.savez(tmp_path / "empty.npz", x_train=images, x_test=images[:0])
    with pytest.raises(DataError, match=r"x_test holds no image: its shape is \[0, 10, 12\]"):
        load(DataSettings("images"), tmp_path / "empty.npz")


def test_idx_files_are_found_as_people_have_them(tmp_path: Path, write_mnist: Callable[..., Path]) -> None:
    raw = write_mnist(tmp_path / "FashionMNIST" / "raw", train=100, test=20)
    assert len(load(DataSettings("images"), tmp_path).test) == 20
    for path in raw.iterdir():
        path.rename(raw / path.name.replace("-idx", ".idx"))
    assert len(load(DataSettings("images"), raw).test) == 20


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", "cowrie", r"some images have a class \(cowrie\) and some have none"),
        ("limpet", "cow\nrie", r"class_names\[0\] 'cow\\nrie' holds U\+000A"),
        ("limpet", "c" * 200, r"class_names\[0\] has 200 characters, must have at most"),
    ],
)
def test_classes_that_no_bundle_can_name_are_told_before_the_training(
    tmp_path: Path, first: str, second: str, message: str
) -> None:
    for i, image in enumerate(shapes(40)):
        home = tmp_path / (first, second)[i % 2]
        home.mkdir(exist_ok=True)
        Image.fromarray(image).save(home / f"{i}.png")
    with pytest.raises(DataError, match=message):
        load(dataclasses.replace(SETTINGS, validation=0.3, test=0.3), tmp_path)


def test_classes_of_images_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Are none to choose from: said, and refused where a model shall be told them."""
    home = tmp_path / "shells"
    (home / "whelk").mkdir(parents=True)
    for i, image in enumerate(shapes(100)):
        Image.fromarray(image).save(home / "whelk" / f"{i}.png")
    file = tmp_path / "shells.toml"
    assert command(monkeypatch, "new-recipe", file, "--data", home) == 0
    assert "all of one class, whelk" in capsys.readouterr().out
    assert find(str(file)).model.label_count == 0
    assert command(monkeypatch, "new-recipe", tmp_path / "c.toml", "--data", home, "--family", "classifier") == 2
    said = capsys.readouterr().err
    assert "all of one class, whelk; a classifier needs two classes or more: a folder for each, or labels" in said
    assert not (tmp_path / "c.toml").exists()
    models, flag = tmp_path / "models", "model.label_count=3"
    assert command(monkeypatch, "train", file, "--data", home, "--models", models, "--set", flag) == 1
    said = capsys.readouterr().err
    assert "model.label_count is 3, but the images are of one class or have none: set it to 0, or sort" in said
    assert said.count("\n") == 1


def test_two_levels_drawn_anew(folder: Path) -> None:
    settings = DataSettings("images", size=(8, 8), colour="grey", levels=2, binarise=True)
    data = load(settings, folder)
    assert data.train.binarise
    assert len(np.unique(data.train.images)) > 10
    assert set(np.unique(data.test.images)) == {0, 255}


def test_bad_folders_and_files(tmp_path: Path) -> None:
    def refused(message: str, path: Path, settings: DataSettings = SETTINGS) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(settings, path)
        assert "\n" not in str(caught.value)

    refused("nothing: no such file or folder", tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("empty: no image$", empty)
    (empty / "notes.txt").touch()
    (empty / "more.txt").touch()
    refused(r"empty: no image; more.txt: is no picture by its ending \(and 1 more\)", empty)
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (4, 4)).save(few / "one.png")
    refused(r"few: of 1 images none falls into the \w+ part; add images", few)
    Image.new("RGB", (5, 4), "red").save(few / "two.png")
    refused(
        r"few: its images have different sizes \(4×4, 4×5\); say which .*--set data.size=\[4,4\]",
        few,
        DataSettings("images"),
    )
    np.save(tmp_path / "floats.npy", np.zeros((4, 8, 8), np.float32))
    refused(r"floats.npy is float32; images must be uint8.*255 \* images", tmp_path / "floats.npy")
    np.save(tmp_path / "flat.npy", np.zeros((4, 64), np.uint8))
    refused(r"flat.npy has the shape \[4, 64\]", tmp_path / "flat.npy")
    np.savez(tmp_path / "other.npz", pixels=np.zeros((4, 8, 8), np.uint8))
    refused(r"other.npz: has no array called images.*; it has pixels", tmp_path / "other.npz")
    np.savez(tmp_path / "labels.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(3))
    refused(r"labels.npz: images has 4 images, its labels the shape \[3\]", tmp_path / "labels.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "labels.npz").read_bytes()[:100])
    refused(r"half.npz: cannot be read", tmp_path / "half.npz")
    (tmp_path / "not.parquet").write_text("PAR1")
    refused(r"not.parquet: is not Parquet", tmp_path / "not.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png"], "label": [1]}), tmp_path / "paths.parquet")
    refused(r"paths.parquet: has no column of encoded pictures .*path \(string\)", tmp_path / "paths.parquet")
    (tmp_path / "images.zip").touch()
    refused(r"images.zip: is neither a folder of pictures nor one of .npy, .npz, .parquet", tmp_path / "images.zip")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ancestral-exporter", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    return code if isinstance(code, int) else int(bool(code))


SOURCES = {
    "pixelcnn": "shells",
    "vae": "shells.npz",
    "gan": "shells.parquet",
    "autoencoder": "shells",
    "classifier": "shells",
}
LEFT_OUT = {
    "shells": ("left out notes.txt: is no picture by its ending", "left out cowrie/broken.png: is no picture"),
    "shells.npz": (),
    "shells.parquet": ("left out shells.parquet row 600: holds only the path 'elsewhere.png', and no bytes",),
}
CLASSES = ("cowrie", "limpet", "whelk")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's images in three ways, and a folder `models`."""
    home = tmp_path_factory.mktemp("own")
    (home / "models").mkdir()
    write_folder(home / "shells")
    images, labels = shapes(600), [CLASSES[i % 3] for i in range(600)]
    np.savez(home / "shells.npz", images=np.stack(images), labels=np.array(labels))
    cells: list[dict[str, Any]] = [
        {"bytes": png(Image.fromarray(image)), "path": f"{i}.png"} for i, image in enumerate(images)
    ]
    cells.append({"bytes": None, "path": "elsewhere.png"})
    table = pyarrow.table({"image": cells, "label": [*labels, "whelk"]})
    pyarrow.parquet.write_table(table, home / "shells.parquet")
    return home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    """Of one server, which finds each model in the folder as it is written."""
    with (
        ServerProcess(home / "models", "--poll-seconds", "0.1", *PATIENT) as server,
        Client(server.address, timeout=600) as client,
    ):
        yield client


@pytest.mark.parametrize("family", SOURCES)
def test_three_commands_from_images_to_a_served_model(
    family: str, home: Path, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`new-recipe`, `train` with a small net for two steps, and a server: sampled, encoded, completed."""
    file, source, name = home / f"shells-{family}.toml", SOURCES[family], f"shells-{family}"
    narrow = "model.encoder_widths=[4,8]" if family == "classifier" else "model.channels=4"
    small = [narrow, "schedule.epochs=1", "schedule.batch_size=250", "data.size=[6,6]"]
    flags = [part for setting in small for part in ("--set", setting)]
    for arguments in (
        ("new-recipe", file, "--data", home / source, "--family", family),
        ("train", file, "--data", home / source, "--models", home / "models", *flags),
    ):
        assert command(monkeypatch, *arguments) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"600 images of {source}" in said
        assert "3 classes" in said
        assert all(line in said for line in LEFT_OUT[source])
        assert said.count("left out") == len(LEFT_OUT[source])
    recipe = find(str(file))
    assert "# 3 classes: cowrie, limpet, whelk" in file.read_text()
    assert (recipe.data.size, recipe.data.colour, recipe.data.levels) == ((10, 12), "rgb", 256)
    until(lambda: any((model.name, model.serving) == (name, True) for model in client.models()))
    (model,) = [model for model in client.models() if model.name == name]
    assert model.class_names == CLASSES
    assert (model.image_shape, model.levels) == ((6, 6, 3), 256)
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    if "sample" in model.roles:
        label = 2 if model.label_count else None
        drawn = client.sample(name, 4, seed=1, label=label).images
        np.testing.assert_array_equal(client.sample(name, 1, seed=1, first_index=3, label=label).images, drawn[3:])
        assert len(np.unique(drawn)) > 50  # of 256 levels
    if family == "pixelcnn":
        assert recipe.model.likelihood == "mixture-of-logistics"
        known = np.zeros((6, 6), np.bool_)
        known[:3] = True
        whole = client.sample(name, 4, seed=2, label=2, given=images, known=known).images
        np.testing.assert_array_equal(whole[:, :3], images[:, :3])
        assert (whole[:, 3:] != images[:, 3:]).any()
        assert np.isfinite(client.score(name, images, labels=2).log_likelihood).all()
    if family == "vae":
        assert recipe.model.likelihood == "mixture-of-logistics"
        assert np.isfinite(client.score(name, images).log_likelihood).all()
    if family == "classifier":
        assert recipe.data.shift == 1
        assert client.classify(name, images).logits.shape == (4, 3)
        assert client.features(name, images).features.shape == (4, recipe.model.features)
    if "encode" in model.roles:
        assert client.decode(name, client.encode(name, images).mean).images.shape == images.shape


def test_a_scan_of_few_intensities_has_a_softmax_over_them(tmp_path: Path) -> None:
    """And large images a narrower net that looks farther, and fewer steps."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "scans.npy", (random.integers(0, 2, (60, 12, 9)) * 255).astype(np.uint8))
    np.save(tmp_path / "photos.npy", random.integers(0, 256, (60, 40, 40, 3), dtype=np.uint8))
    found = {}
    for name in ("scans", "photos"):
        (tmp_path / f"{name}.toml").write_text(new.write("pixelcnn", tmp_path / f"{name}.npy").text)
        found[name] = find(str(tmp_path / f"{name}.toml"))
    scans, photos = found["scans"], found["photos"]
    assert (scans.data.levels, scans.model.likelihood, scans.model.one_hot) == (2, "categorical", True)
    assert (photos.data.levels, photos.model.likelihood, photos.model.one_hot) == (256, "mixture-of-logistics", False)
    assert photos.data.size == (32, 32)
    assert photos.model.row_dilations == (1, 2, 4, 8)
    assert scans.model.row_dilations == (1,)
    assert photos.model.channels < scans.model.channels


def test_a_recipe_is_not_overwritten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("mine")
    assert command(monkeypatch, "new-recipe", mine, "--data", folder) == 2
    assert "is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert command(monkeypatch, "new-recipe", tmp_path / "x.toml", "--data", folder, "--family", "pixelcn") == 2
    assert "did you mean 'pixelcnn'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my shells.toml", "the name 'my shells' does not match"),
        ("Shells.toml", "the name 'Shells' does not match"),
        ("nowhere/shells.toml", "there is no folder"),
        ("shells.txt", "a recipe's file ends in .toml"),
    ],
)
def test_where_a_recipe_cannot_be_is_told_before_the_images_are_read(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "new-recipe", tmp_path / name, "--data", tmp_path / "no images") == 2
    assert message in capsys.readouterr().err


def test_the_command_that_new_recipe_tells_can_be_pasted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spaced = folder.rename(tmp_path / "my shells; $HOME")
    file = tmp_path / "shells.toml"
    assert command(monkeypatch, "new-recipe", file, "--data", spaced) == 0
    told = capsys.readouterr().out.splitlines()[-1].partition("train it with: ")[2]
    assert shlex.split(told) == f"ancestral-exporter|train|{file}|--data|{spaced}|--models|models".split("|")
    assert f"--data {shlex.quote(str(spaced))} --models" in file.read_text().splitlines()[0]
