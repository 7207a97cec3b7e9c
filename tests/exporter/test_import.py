"""`ancestral-exporter import`: what somebody's file gives, the bundle gives; what is not certain is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import foreign
from ancestral_exporter.bundle import verify_bundle
from ancestral_exporter.bundle.runtime import open_session
from ancestral_exporter.cli import main
from ancestral_exporter.foreign import kl
from ancestral_exporter.foreign.write import write

IMAGES = np.random.default_rng(5).integers(0, 256, (3, foreign.SIDE, foreign.SIDE, 3), dtype=np.uint8)
LATENTS = np.random.default_rng(6).standard_normal((3, foreign.LATENTS), dtype=np.float32)
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """`run(file, "--role", "classify")` imports an ONNX file as the model `theirs` of the folder `models`."""

    def call(file: Path, *options: object, kind: str = "onnx") -> Done:
        places = [kind, str(file), str(tmp_path / "models"), "--name", "theirs"]
        monkeypatch.setattr(sys, "argv", ["ancestral-exporter", "import", *places, *map(str, options)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Done(int(stopped.value.code or 0), *capsys.readouterr())

    return call


def theirs(file: Path, values: np.ndarray) -> list[Any]:
    return list(onnxruntime.InferenceSession(str(file)).run(None, {_input(file): values}))


def _input(file: Path) -> str:
    return str(onnx.load(str(file)).graph.input[0].name)


def ours(tmp_path: Path, role: str, values: np.ndarray) -> dict[str, np.ndarray]:
    bundle = tmp_path / "models" / "theirs" / "1"
    assert verify_bundle(bundle).ok
    session = open_session(bundle / f"{role}.onnx")
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: values}), strict=True))


@pytest.mark.parametrize(
    ("options", "prepared"),
    [
        (("--scale", "0..1"), IMAGES / np.float32(255)),
        (("--scale", "-1..1"), IMAGES / np.float32(127.5) - 1),
        (("--scale", "0..255"), IMAGES.astype(np.float32)),
        (("--scale", "imagenet"), (IMAGES / np.float32(255) - MEAN) / STD),
        (("--scale", "0..1", "--mean", "0.5", "--std", "0.2,0.3,0.4"), (IMAGES / 255 - 0.5) / [0.2, 0.3, 0.4]),
        (("--scale", "0..1", "--bgr"), IMAGES[..., ::-1] / np.float32(255)),
    ],
)
def test_bytes_become_the_floats_that_are_said(
    run: Callable[..., Done], tmp_path: Path, options: tuple[str, ...], prepared: np.ndarray
) -> None:
    file = foreign.classifier(tmp_path / "net.onnx")
    done = run(file, "--role", "classify", *options)
    assert (done.code, done.err) == (0, "")
    (wanted,) = theirs(file, prepared.astype(np.float32).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(ours(tmp_path, "classify", IMAGES)["logits"], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("opset", [9, 12, 13, 17, 20, 21])
def test_any_opset_that_can_be_converted(run: Callable[..., Done], tmp_path: Path, opset: int) -> None:
    file = foreign.classifier(tmp_path / "net.onnx", opset=opset)
    assert run(file, "--role", "features", "--scale", "0..1").code == 0
    (wanted,) = theirs(file, (IMAGES / np.float32(255)).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(ours(tmp_path, "features", IMAGES)["features"], wanted, rtol=1e-4, atol=1e-4)


def test_bytes_of_channels_last_in_a_fixed_batch_of_four(run: Callable[..., Done], tmp_path: Path) -> None:
    size = (foreign.SIDE, foreign.SIDE, 3)
    file = foreign.classifier(tmp_path / "net.onnx", batch=4, shape=size, dtype=TensorProto.UINT8)
    assert run(file, "--role", "classify").code == 0
    (wanted,) = theirs(file, np.concatenate([IMAGES, IMAGES[:1]]))
    np.testing.assert_allclose(ours(tmp_path, "classify", IMAGES)["logits"], wanted[:3], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_other_sizes(run: Callable[..., Done], tmp_path: Path, dtype: type[np.generic]) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    file = foreign.classifier(tmp_path / "net.onnx", dtype=code)
    assert run(file, "--role", "classify", "--scale", "0..1").code == 0
    (wanted,) = theirs(file, (IMAGES / np.float32(255)).transpose(0, 3, 1, 2).astype(dtype))
    np.testing.assert_allclose(ours(tmp_path, "classify", IMAGES)["logits"], wanted, rtol=1e-4, atol=1e-4)


def test_a_softmax_becomes_logits_and_classes_have_names(run: Callable[..., Done], tmp_path: Path) -> None:
    file = foreign.classifier(tmp_path / "net.onnx", softmax=True)
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nnewt\nowl\npike\n")
    done = run(file, "--role", "classify", "--scale", "0..1", "--classes", names)
    assert "logits are the logs of its probabilities" in done.out
    (wanted,) = theirs(file, (IMAGES / np.float32(255)).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(np.exp(ours(tmp_path, "classify", IMAGES)["logits"]), wanted, atol=1e-5)
    bundle = tmp_path / "models" / "theirs" / "1"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["class_names"] == ["cat", "dog", "newt", "owl", "pike"]
    card = (bundle / "CARD.md").read_text()
    assert manifest["provenance"]["imported_sha256"] in card
    assert "somebody" in card
    assert not (bundle / "samples.png").exists()


def test_an_encoder_of_one_image_takes_many(run: Callable[..., Done], tmp_path: Path) -> None:
    file = foreign.encoder(tmp_path / "net.onnx")
    named = ("--output", "mean=z_mean", "--output", "log_variance=z_logvar")
    done = run(file, "--role", "encode", "--scale", "0..1", *named)
    assert (done.code, done.err) == (0, "")
    images = IMAGES[..., :1]
    alone = [theirs(file, (image / np.float32(255)).transpose(2, 0, 1)[None]) for image in images]
    found = ours(tmp_path, "encode", images)
    np.testing.assert_allclose(found["mean"], np.stack([a[0].ravel() for a in alone]), atol=1e-5)
    np.testing.assert_allclose(found["log_variance"], np.stack([a[1].ravel() for a in alone]), atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_a_decoder_draws_bytes(run: Callable[..., Done], tmp_path: Path, flat: bool) -> None:
    file = foreign.decoder(tmp_path / "net.onnx", flat=flat)
    options = ("--image", f"{foreign.SIDE}x{foreign.SIDE}x3", "--layout", "nchw") if flat else ()
    assert run(file, "--role", "decode", "--scale", "-1..1", *options).code == 0
    (drawn,) = theirs(file, LATENTS)
    wanted = np.clip(np.rint((drawn.reshape(-1, 3, foreign.SIDE, foreign.SIDE) + 1) * 127.5), 0, 255)
    assert (ours(tmp_path, "decode", LATENTS)["image"] != wanted.transpose(0, 2, 3, 1)).mean() < 0.002


def test_open_sizes_are_said(run: Callable[..., Done], tmp_path: Path) -> None:
    file = foreign.classifier(tmp_path / "net.onnx", shape=("c", "h", "w"))
    asked = run(file, "--role", "features", "--scale", "0..1")
    assert asked.code == 2
    assert "say --layout, or --image HxWxC" in asked.err
    sizes = ("--image", f"{foreign.SIDE}x{foreign.SIDE}x3", "--layout", "nchw")
    assert run(file, "--role", "features", "--scale", "0..1", *sizes).code == 0


def test_weights_beside_the_file_are_taken_along(run: Callable[..., Done], tmp_path: Path) -> None:
    file = foreign.classifier(tmp_path / "net.onnx")
    (before,) = theirs(file, np.zeros((1, 3, foreign.SIDE, foreign.SIDE), np.float32))
    model = onnx.load(str(file))
    onnx.save_model(model, str(file), save_as_external_data=True, location="net.bin", size_threshold=0)
    assert run(file, "--role", "features", "--scale", "0..1").code == 0
    black = np.zeros((1, foreign.SIDE, foreign.SIDE, 3), np.uint8)
    (tmp_path / "net.bin").rename(tmp_path / "gone")
    np.testing.assert_array_equal(ours(tmp_path, "features", black)["features"], before)
    missing = run(file, "--role", "features", "--scale", "0..1")
    assert missing.code
    assert "net.bin" in missing.err
    assert missing.err.count("\n") == 1


def two_inputs(path: Path) -> Path:
    both = [foreign.value("a", "n", 3, 8, 8), foreign.value("b", "n", 3, 8, 8)]
    return foreign.save(
        path, [helper.make_node("Add", ["a", "b"], ["y"])], both, [foreign.value("y", "n", 3, 8, 8)], {}
    )


def odd_names(path: Path) -> Path:
    names = ("one\nline", "\x1b[31m")
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    return foreign.save(
        path, nodes, foreign.value("x", "n", 3, 8, 8), [foreign.value(n, "n", 3, 8, 8) for n in names], {}
    )


def no_output(path: Path) -> Path:
    return foreign.save(path, [helper.make_node("Identity", ["x"], ["y"])], foreign.value("x", "n", 3, 8, 8), [], {})


def one_node(op: str, **attributes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        node = helper.make_node(op, ["x"], ["y"], **attributes)
        return foreign.save(path, [node], foreign.value("x", "n", 3, 8, 8), [foreign.value("y", "n", 3, 8, 8)], {})

    return make


def mixing(path: Path) -> Path:
    """What an image gives depends on the others of its batch."""
    node = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1)
    nodes = [node, helper.make_node("Sub", ["x", "m"], ["y"])]
    return foreign.save(path, nodes, foreign.value("x", "n", 3, 8, 8), [foreign.value("y", "n", 3, 8, 8)], {})


def stuck(path: Path) -> Path:
    """Its batch of 1 stands where nobody can free it: in a constant that is added to the shape."""
    nodes = [
        helper.make_node("Shape", ["w"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"w": np.zeros((1, 192), np.float32)}
    return foreign.save(path, nodes, foreign.value("x", 1, 3, 8, 8), [foreign.value("y", 1, 192)], constants)


def text(path: Path) -> Path:
    path.write_text("this is no graph")
    return path


def integers(path: Path) -> Path:
    node = helper.make_node("Identity", ["x"], ["y"])
    sizes = ("n", 3, 8, 8)
    given, got = (foreign.value(name, *sizes, dtype=TensorProto.INT64) for name in "xy")
    return foreign.save(path, [node], given, [got], {})


FEATURES = ("--role", "features", "--scale", "0..1")
ENCODE = ("--role", "encode", "--scale", "0..1")


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda path: path, FEATURES, "no such file"),
        (text, FEATURES, "is no ONNX file"),
        (two_inputs, FEATURES, "must have one input, the image or the latent; it has 2: a float [n,3,8,8], b float"),
        (
            odd_names,
            FEATURES,
            r"has 2 outputs: one\nline float [n,3,8,8], \x1b[31m float [n,3,8,8]; say which is which",
        ),
        (no_output, FEATURES, "has no output"),
        (integers, FEATURES, "input 'x' is tensor(int64), must be floats or uint8"),
        (one_node("Sqrt", domain="my.ops"), FEATURES, "does not know: my.ops.Sqrt"),
        (one_node("Log"), FEATURES, "output 'y' is infinity for a trial input"),
        (one_node("RandomNormalLike"), FEATURES, "the file draws noise itself"),
        (mixing, FEATURES, "does not answer as the original does"),
        (stuck, FEATURES, "does not answer as the original does"),
        (
            foreign.encoder,
            ENCODE,
            "z_mean float [1,3,1,2], z_logvar float [1,6]; say which is which with --output mean=",
        ),
        (foreign.encoder, (*ENCODE, "--output", "mean=zz"), "--output mean=zz: its outputs are z_mean"),
        (foreign.encoder, (*ENCODE, "--output", "logits=z_mean"), "encode gives mean or log_variance"),
        (foreign.encoder, (*ENCODE, "--output", "z_mean"), "must be OURS=NAME"),
        (
            foreign.encoder,
            ("--role", "encode", "--output", "mean=z_mean"),
            "--scale: 0..1, -1..1, 0..255, imagenet",
        ),
        (
            foreign.encoder,
            ("--role", "encode", "--output", "mean=z_mean", "--scale", "imagenet"),
            "for 3 channels, and the images have 1",
        ),
        (foreign.classifier, ("--role", "classify", "--scale", "0..2"), "--scale must be one of"),
        (foreign.classifier, ("--role", "classify", "--scale", "0..1", "--std", "0"), "--std must be above 0"),
        (
            foreign.classifier,
            ("--role", "classify", "--scale", "0..1", "--image", "9x9x3"),
            "no images of --image 9x9x3",
        ),
        (
            foreign.classifier,
            ("--role", "classify", "--scale", "0..1", "--output", "probabilities=y"),
            "output 'y' holds no probabilities",
        ),
        (
            lambda path: foreign.decoder(path, flat=True),
            ("--role", "decode", "--scale", "-1..1"),
            "say their size with",
        ),
        (foreign.decoder, ("--role", "decode", "--scale", "0..1", "--latent", "3x2"), "--latent 3x2 does not fit"),
        (foreign.classifier, (*FEATURES, "--name", "../out"), "model name '../out' does not match"),
        (foreign.classifier, (*FEATURES, "--classes", "names.txt"), "--classes is for --role classify"),
    ],
)
def test_one_line_says_what_is_wrong(
    run: Callable[..., Done], tmp_path: Path, make: Callable[[Path], Path], options: tuple[str, ...], says: str
) -> None:
    file = make(tmp_path / "net.onnx")
    done = run(file, *options)
    assert done.code in (1, 2)
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not list((tmp_path / "models").glob("**/bundle.json"))


def test_class_names_must_be_as_many(run: Callable[..., Done], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    file = foreign.classifier(tmp_path / "net.onnx")
    done = run(file, "--role", "classify", "--scale", "0..1", "--classes", names)
    assert done.code == 1
    assert "has 2 lines, the model knows 5 classes" in done.err


def test_an_autoencoder_with_the_interface_of_diffusers(tmp_path: Path) -> None:
    net = foreign.TinyKL()
    model = kl.around_net(net, None, {"imported_from": "tiny"})
    assert model.latent_size == 2 * 4 * 4
    bundle = write(model, "theirs", tmp_path / "models", tolerance=1e-4)
    found = ours(tmp_path, "encode", IMAGES)
    with torch.no_grad():
        pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 127.5 - 1
        mean, log_variance = net.quant_conv(net.encoder(pixels)).chunk(2, dim=1)
        drawn = net.decode(mean, return_dict=False)[0]
    np.testing.assert_allclose(found["mean"], (mean.flatten(1) - 0.25) * 0.5, atol=1e-4)
    np.testing.assert_allclose(found["log_variance"], log_variance.flatten(1) + 2 * np.log(0.5), atol=1e-4)
    back = ours(tmp_path, "decode", found["mean"])["image"]
    wanted = ((drawn + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert (back != wanted).mean() < 0.02
    assert "latents of 2×4×4" in (bundle / "CARD.md").read_text()


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (None, (), "is no model that diffusers has saved"),
        ("{", (), "is no config of diffusers"),
        ('{"_class_name": "AutoencoderDC"}', (), "only AutoencoderKL can be imported"),
        ('{"_class_name": "AutoencoderKL"}', ("--size", "9"), "--size must be sizes such as 256x256"),
        ('{"_class_name": "AutoencoderKL"}', (), "pip install diffusers"),
    ],
)
def test_a_folder_that_is_no_autoencoder(
    run: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    config: str | None,
    options: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as where it is not installed
    folder = tmp_path / "theirs"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    done = run(folder, *options, kind="diffusers")
    assert done.code in (1, 2)
    assert says in done.err
    assert done.err.count("\n") == 1
