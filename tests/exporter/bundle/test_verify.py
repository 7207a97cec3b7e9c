"""verify_bundle finds what is wrong and says it; causality and the near-tie rule against sessions made up here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from ancestral.bundle import rules
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.bundle import VerifyError, VerifyReport, verify_bundle
from ancestral_exporter.bundle.causality import check_causality
from ancestral_exporter.bundle.compare import Tolerance, compare, difference
from ancestral_exporter.bundle.verify import sha256

Arrays = dict[str, np.ndarray[Any, Any]]


def test_a_good_bundle_verifies(pristine: Path) -> None:
    report = verify_bundle(pristine)
    report.raise_if_failed()
    text = str(report)
    for seen in ("sample.onnx causality", "batch 64", "sample.onnx against score.onnx", "verified"):
        assert seen in text


def rewrite(bundle: Path, change: Callable[[bundle_pb2.Bundle], None]) -> None:
    """Change the manifest, and have it tell the truth about the files."""
    manifest = json_format.Parse((bundle / "bundle.json").read_text(), bundle_pb2.Bundle())
    change(manifest)
    for file in manifest.files:
        if (bundle / file.path).exists():
            file.sha256, file.size_bytes = sha256(bundle / file.path), (bundle / file.path).stat().st_size
    (bundle / "bundle.json").write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True))


def truncate(bundle: Path) -> None:
    content = (bundle / "score.onnx").read_bytes()
    (bundle / "score.onnx").write_bytes(content[: len(content) // 2])


def flip_byte(bundle: Path) -> None:
    content = bytearray((bundle / "score.onnx").read_bytes())
    content[-20] ^= 1
    (bundle / "score.onnx").write_bytes(content)


def truncate_and_rehash(bundle: Path) -> None:
    truncate(bundle)
    rewrite(bundle, lambda manifest: None)


def change_golden(bundle: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    golden["features/out/features"] = golden["features/out/features"] + np.float32(0.01)
    np.savez(bundle / "golden.npz", **golden)
    rewrite(bundle, lambda manifest: None)


def lose_golden(bundle: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    del golden["sample/in/uniforms"]
    np.savez(bundle / "golden.npz", **golden)
    rewrite(bundle, lambda manifest: None)


def rename_tensor(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[0].outputs[0].name = "likelihood"


def wrong_shape(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[2].states[0].shape[0] = 9


def unmeasured(manifest: bundle_pb2.Bundle) -> None:
    manifest.metrics[0].value = float("nan")


def classes(manifest: bundle_pb2.Bundle) -> None:
    manifest.label_count = 7
    # Its number of classes is told apart from theirs before anything runs.
    for role in [role for role in manifest.roles if role.name == "classify"]:
        manifest.roles.remove(role)


def two_lines(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[0].name += "\nx"


def lose_graph(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[0].graph = "other.onnx"


def newer_schema(manifest: bundle_pb2.Bundle) -> None:
    manifest.schema = 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(truncate, r"score\.onnx: has \d+ bytes, the manifest says \d+", id="truncated"),
        pytest.param(flip_byte, r"score\.onnx: has SHA-256", id="hash"),
        pytest.param(truncate_and_rehash, r"score\.onnx: does not load", id="unloadable"),
        pytest.param(lambda b: (b / "sample.onnx").unlink(), r"sample\.onnx: is missing", id="missing"),
        pytest.param(lambda b: (b / "extra").write_text("x"), r"extra: is not in the manifest", id="extra"),
        pytest.param(lambda b: (b / "bundle.json").write_text("{"), r"bundle\.json: is not JSON", id="manifest"),
        pytest.param(lambda b: (b / "bundle.json").unlink(), r"bundle\.json: cannot be read", id="no-manifest"),
        pytest.param(change_golden, r"score\.onnx features .*batch 64, features: worst difference 0\.01", id="golden"),
        pytest.param(lose_golden, r"golden\.npz: lacks sample/in/uniforms", id="golden-array"),
        pytest.param(lambda b: rewrite(b, rename_tensor), "no output 'likelihood'", id="tensor"),
        pytest.param(lambda b: rewrite(b, wrong_shape), r"'rows' is tensor\(float\)", id="state-shape"),
        pytest.param(lambda b: rewrite(b, lose_graph), r"'other\.onnx' is not among its files", id="graph"),
        pytest.param(lambda b: rewrite(b, unmeasured), r"metrics\[0\]\.value is nan, must be finite", id="metric"),
        pytest.param(
            lambda b: rewrite(b, classes), r"score\.onnx score: fails with label 6, label_count is 7", id="labels"
        ),
        pytest.param(lambda b: rewrite(b, two_lines), r"roles\[0\]\.name '\w+\\nx' holds U\+000A", id="name"),
        pytest.param(
            lambda b: rewrite(b, newer_schema), "schema 3 is newer than the 2 that is known here", id="schema"
        ),
    ],
)
def test_what_is_wrong_is_named(bundle: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(bundle)
    report = verify_bundle(bundle)
    assert not report.ok
    with pytest.raises(VerifyError, match=message):
        report.raise_if_failed()


def test_a_bundle_in_the_wrong_place_is_named(bundle: Path) -> None:
    moved = shutil.move(bundle, bundle.parent / "3")
    with pytest.raises(VerifyError, match="is of tiny/1, but lies in tiny/3"):
        verify_bundle(Path(moved)).raise_if_failed()


class Painter:
    """A session of a made-up raster graph on 1-channel images: `p(given, known)` [B,W] is the probability of white."""

    def __init__(self, probability: Callable[[Arrays], np.ndarray[Any, Any]]) -> None:
        self.probability = probability

    def run(self, names: list[str], feeds: Arrays) -> list[np.ndarray[Any, Any]]:
        p = self.probability(feeds)
        known, given = feeds["known"][..., 0], feeds["given"][..., 0]
        white = feeds["uniforms"][..., 0] < p
        row = np.where(known, given, np.where(white, 255, 0)).astype(np.uint8)
        scores = np.where(known, 0, np.log(np.where(white, p, 1 - p)))
        state = feeds["above"] + np.where(known, given, row)
        return [row[..., None], scores.sum(1).astype(np.float32), state.astype(np.float32)]


def painter_role() -> bundle_pb2.Role:
    spec = bundle_pb2.TensorSpec
    byte, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_FLOAT32
    return bundle_pb2.Role(
        name="sample",
        program=bundle_pb2.PROGRAM_RASTER,
        graph="made-up.onnx",
        inputs=[
            spec(name="given", meaning=bundle_pb2.MEANING_GIVEN, dtype=byte, shape=[4, 1]),
            spec(name="known", meaning=bundle_pb2.MEANING_KNOWN, dtype=tensor_pb2.DATA_TYPE_BOOL, shape=[4, 1]),
            spec(name="uniforms", meaning=bundle_pb2.MEANING_UNIFORMS, dtype=real, shape=[4, 1]),
            spec(name="temperature", meaning=bundle_pb2.MEANING_TEMPERATURE, dtype=real),
        ],
        outputs=[
            spec(name="row", meaning=bundle_pb2.MEANING_ROW, dtype=byte, shape=[4, 1]),
            spec(name="log_likelihood", meaning=bundle_pb2.MEANING_LOG_LIKELIHOOD, dtype=real),
        ],
        states=[bundle_pb2.StateSpec(input="above", output="next_above", shape=[4])],
    )


def from_above(feeds: Arrays) -> np.ndarray[Any, Any]:
    return np.asarray(0.2 + feeds["above"].sum(1, keepdims=True) % 7 / 20 + np.zeros((1, 4)))


def from_the_right(feeds: Arrays) -> np.ndarray[Any, Any]:
    later = np.where(feeds["known"], feeds["given"], 0)[:, :, 0]
    return np.asarray(0.2 + np.roll(later, -1, axis=1) / 600)


@pytest.mark.parametrize(("probability", "causal"), [(from_above, True), (from_the_right, False)])
def test_causality_is_told(probability: Callable[[Arrays], np.ndarray[Any, Any]], causal: bool) -> None:
    report = VerifyReport("made up")
    image = bundle_pb2.ImageSpec(height=3, width=4, channels=1, levels=2)
    check_causality(report, Painter(probability), painter_role(), image, 0)
    assert report.ok == causal
    assert ("none depends on later" if causal else "depends on itself or on later pixels") in str(report)


@pytest.mark.parametrize(("margin", "ok"), [(3e-7, True), (8e-6, True), (2e-5, True), (1e-3, False)])
def test_a_pixel_may_differ_only_at_a_tie(margin: float, ok: bool) -> None:
    uniforms = np.full((2, 3, 4, 1), 0.25, np.float32)
    uniforms[1, 1, 2] = 0.5 + margin  # this session paints black; PyTorch, say, painted white and went on otherwise
    feeds: Arrays = {
        "given": np.zeros((2, 3, 4, 1), np.uint8),
        "known": np.zeros((2, 3, 4, 1), np.bool_),
        "uniforms": uniforms,
        "temperature": np.ones(2, np.float32),
    }
    wanted: Arrays = {
        "row": np.full((2, 3, 4, 1), 255, np.uint8),
        "log_likelihood": np.full(2, 12 * np.log(0.5), np.float32),
    }
    report = VerifyReport("made up")
    session = Painter(lambda f: np.full((2, 4), 0.5))
    compare(report, "test", session, painter_role(), feeds, wanted, Tolerance(1e-5, 0))
    assert report.ok == ok
    assert "sample 1: first differs at [1, 2, 0]" in str(report)


@pytest.mark.parametrize(("margin", "ok"), [(3e-7, True), (8e-6, True), (2e-5, True), (1e-3, False)])
def test_a_pixel_without_temperature_may_differ_only_where_two_levels_are_as_likely(margin: float, ok: bool) -> None:
    feeds: Arrays = {
        "given": np.zeros((1, 3, 4, 1), np.uint8),
        "known": np.zeros((1, 3, 4, 1), np.bool_),
        "uniforms": np.full((1, 3, 4, 1), 0.25, np.float32),
        "temperature": np.zeros(1, np.float32),
    }
    wanted: Arrays = {"row": np.full((1, 3, 4, 1), 255, np.uint8), "log_likelihood": np.zeros(1, np.float32)}

    def probability(feeds: Arrays) -> np.ndarray[Any, Any]:
        """Of white, whose logit is below that of black by the margin."""
        inverse = 1 / np.maximum(feeds["temperature"].astype(np.float64), 1e-30)
        return np.asarray(np.exp(-np.logaddexp(0, margin * inverse))[:, None] + np.zeros((1, 4)))

    report = VerifyReport("made up")
    compare(report, "test", Painter(probability), painter_role(), feeds, wanted, Tolerance(1e-5, 0))
    assert report.ok == ok
    assert "sample 0: first differs at [0, 0, 0]" in str(report)


def test_differences() -> None:
    ones = np.ones(3, np.float32)
    assert difference(ones, ones, Tolerance(0, 0))[0]
    # Of values in bytes an error is judged by their range.
    assert not difference(ones, ones + 0.02, Tolerance(1e-4, 0))[0]
    assert difference(ones, ones + 0.02, Tolerance(1e-4, 0), rules.unit(bundle_pb2.MEANING_PIXEL_MEAN))[0]
    assert not difference(np.array([1, np.nan, 1], np.float32), ones, Tolerance(1, 0))[0]
    assert not difference(ones.astype(np.uint8), np.array([1, 1, 2], np.uint8), Tolerance(1, 0.3))[0]
    assert difference(ones.astype(np.uint8), np.array([1, 1, 2], np.uint8), Tolerance(1, 0.34))[0]


@pytest.mark.parametrize(
    ("meaning", "wrong", "pixels", "ok"),
    [
        pytest.param(bundle_pb2.MEANING_IMAGE, 1, 0.002, True, id="one of 448 is a rounding"),
        pytest.param(bundle_pb2.MEANING_IMAGE, 2, 0.002, False, id="two are not"),
        pytest.param(bundle_pb2.MEANING_IMAGE, 1, 0.0, False, id="none where none may differ"),
        pytest.param(bundle_pb2.MEANING_ROW, 1, 0.002, False, id="of rows the ties tell"),
        pytest.param(bundle_pb2.MEANING_LABEL, 1, 0.002, False, id="a class is not rounded"),
    ],
)
def test_a_byte_of_an_image_may_lie_at_a_threshold_in_few_images_too(
    meaning: bundle_pb2.Meaning.ValueType, wrong: int, pixels: float, ok: bool
) -> None:
    wanted = np.full((7, 8, 8, 1), 127, np.uint8)
    got = wanted.copy()
    got.reshape(-1)[:wrong] = 126
    assert difference(got, wanted, Tolerance(1e-4, pixels), roundings=rules.roundings(meaning))[0] is ok
