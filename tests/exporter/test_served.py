"""`ancestral-exporter evaluate`: what it measures is what it says, on a real bundle and on numbers known beforehand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.bundle import noise
from ancestral.v1 import bundle_pb2
from ancestral_exporter import data
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.bundle.runtime import open_session
from ancestral_exporter.cli import main
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.gan import GAN, GANSettings
from ancestral_exporter.plots import labelled_rows
from ancestral_exporter.recipes import find
from ancestral_exporter.served import evaluation, judge, probes, samples
from ancestral_exporter.served.bundle import Served
from ancestral_exporter.served.judge import Judged
from ancestral_exporter.served.latents import measure_latents
from ancestral_exporter.served.likelihood import measure_likelihood
from shared import Shared

# One more than the judge has features, so that there is a Fréchet distance.
IMAGES, SAMPLES, DRAWS = judge.FEATURES + 1, judge.FEATURES + 1, 4


@pytest.fixture(scope="module")
def vae(once: Shared) -> Path:
    """A bundle of a small VAE of the digits, untrained, which says by which recipe it was made."""
    recipe = find("digits-vae", ["model.latent_size=3", "model.channels=4", "model.features=16"])
    torch.manual_seed(0)
    images = data.load(recipe.data).test.images[:2]
    write = partial(
        write_bundle,
        recipe.build(ImageShape(8, 8, 1, 17)).eval(),
        name="vae",
        provenance={"settings": json.dumps(recipe.settings())},
        golden_images=images,
    )
    return once("served vae", lambda folder: write(models_dir=folder)) / "vae" / "1"


@pytest.fixture(scope="module")
def gan(once: Shared) -> Path:
    """A bundle of an untrained GAN of 6×5 colour images, which does not say what it was trained on."""
    torch.manual_seed(0)
    shape = ImageShape(6, 5, 3, 4)
    model = GAN(shape, GANSettings(latent_size=3, channels=4, features=8))
    write = partial(write_bundle, model, name="gan", golden_images=np.zeros((2, *shape.hwc), np.uint8))
    return once("served gan", lambda folder: write(models_dir=folder)) / "gan" / "1"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images as the GAN's, of three classes."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, images=random.integers(0, 256, (300, 6, 5, 3), dtype=np.uint8), labels=np.arange(300) % 3)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, with a judge and probes that cost little: `run(bundle, "--json", file)`."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(judge, "_STEPS", 20)
    monkeypatch.setattr(probes, "DRAWS", 2)
    monkeypatch.setattr(evaluation, "LABELLED", (50,))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ancestral-exporter", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        return (code if isinstance(code, int) else int(bool(code)), *capsys.readouterr())

    return call


def test_every_figure_of_a_vae(vae: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    amounts = ("--images", IMAGES, "--samples", SAMPLES, "--draws", DRAWS)
    outputs = ("--json", tmp_path / "found.json", "--pictures", tmp_path / "new" / "pictures")
    code, out, err = run(vae, *amounts, *outputs)
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["not_applicable"] == {"classifier": "no role classify"}
    assert found["likelihood"]["images"] == IMAGES
    assert found["likelihood"]["draws"] == DRAWS
    assert {entry["encoding"] for entry in found["probes"]} == {
        "encode means", "features", "raw pixels", "PCA, 3 components", "untrained encoder",
    }  # fmt: skip
    assert {(entry["classifier"], entry["labelled"]) for entry in found["probes"]} == {
        ("linear probe", 50), ("nearest neighbours", 50), ("SVM", 50), ("label spreading", 50),
    }  # fmt: skip
    assert found["part"] == "test"
    assert sum(found["classes"]["histogram"]) == SAMPLES
    assert sum(found["classes"]["test_histogram"]) == IMAGES
    assert found["frechet"]["images"] == IMAGES
    assert found["frechet"]["distance"] > 0
    for words in ("negative ELBO, 4 draws an image", "k = 4", "of 3 latents are active", "copies of a training image"):
        assert words in out, words
    pictures = {path.name for path in (tmp_path / "new" / "pictures").iterdir()}
    assert pictures == {"samples.png", "neighbours.png", "reconstructions.png", "traversals.png"}
    for name in pictures:
        assert f"wrote {tmp_path / 'new' / 'pictures' / name}" in out


def test_validation_images_and_counts_of_labels_by_choice(vae: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    amounts = ("--images", IMAGES, "--samples", SAMPLES, "--draws", 1)
    told = {}
    for part in ("test", "validation"):
        code, out, err = run(
            vae, *amounts, "--part", part, "--labels", 30, "--labels", 40, "--json", tmp_path / f"{part}.json"
        )
        assert code == 0, err
        assert f"scoring {IMAGES} {part} images" in err
        assert f"{part.capitalize()} images classified right, by few labels" in out
        told[part] = json.loads((tmp_path / f"{part}.json").read_text())
        assert told[part]["part"] == part
        assert {entry["labelled"] for entry in told[part]["probes"]} == {30, 40}
    digits = data.load(data.DataSettings("digits"))
    for part, split in (("test", digits.test), ("validation", digits.validation)):
        assert told[part]["classes"]["test_histogram"] == np.bincount(split.labels[:IMAGES], minlength=10).tolist()
    assert "test image" not in out.replace("nearest test images", "")


def test_the_likelihood_and_the_latents_are_those_of_the_graphs(vae: Path) -> None:
    served, _ = Served.open(vae)
    images = data.load(data.DataSettings("digits")).test.images[:7]
    labels = np.zeros(7, np.int64)
    found = measure_likelihood(served, images, labels, DRAWS, density=False)
    assert found is not None
    score = served.roles["score"]
    spec = next(spec for spec in score.inputs if spec.name == "uniforms")
    uniforms = noise.uniforms_of_range(0, 0, 7 * DRAWS, tuple(spec.shape))
    feeds = {"image": images.repeat(DRAWS, axis=0), "uniforms": uniforms}
    (weights,) = open_session(vae / score.graph).run(None, feeds)
    by_image = weights.astype(np.float64).reshape(7, DRAWS)
    assert found.nats == pytest.approx(-by_image.mean())
    assert found.bound_nats == pytest.approx(-np.log(np.exp(by_image).mean(axis=1)).mean())
    assert found.bound_nats is not None
    assert found.bound_nats < found.nats
    assert found.bits_per_dim == pytest.approx(found.nats / (64 * np.log(2)))

    latents = measure_latents(served, images)
    assert latents is not None
    assert latents.divergences is not None
    moments = served.moments(images)
    mean, log_variance = (moments[m] for m in (bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LOG_VARIANCE))
    assert latents.variances == pytest.approx(mean.var(axis=0), rel=1e-4)
    assert latents.active == int((mean.var(axis=0) > 0.01).sum())
    assert sum(latents.divergences) == pytest.approx(
        0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1).mean(), rel=1e-4
    )


def test_what_a_bundle_has_no_role_for_is_named(gan: Path, own: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err = run(gan, "--data", own, "--samples", 20, "--json", tmp_path / "found.json")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["not_applicable"].keys() == {
        "likelihood", "latents", "reconstruction", "classifier", "untrained encoder", "frechet",
    }  # fmt: skip
    assert found["not_applicable"]["likelihood"] == "no role score"
    assert found["class_names"] == ["0", "1", "2"]
    assert len(found["classes"]["histogram"]) == 3
    assert "  likelihood: no role score\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{gan}"], "the bundle does not say what it was trained on; pass --data"),
        (["{gan}", "--data", "nowhere"], "nowhere"),
        (["{vae}", "--images", "1"], "--images"),
        (["{vae}", "--labels", "9"], "--labels 9: must be 10, one of each class, to 1000, the training images"),
        (["{vae}", "--labels", "50", "--labels", "1001"], "--labels 1001: must be 10, one of each class, to 1000"),
        (["{vae}", "--part", "train"], "--part"),
        (["{gan}", "--data", "{own}", "--labels", "2"], "--labels 2: must be 3, one of each class, to 250"),
        (["{vae}", "--json", "{tmp}"], "is a folder; give the name of a file in it"),
        (["{vae}", "--json", "{tmp}/no/file.json"], "there is no folder"),
        (["{vae}", "--pictures", "{own}"], "cannot be made a folder: File exists"),
        (["{tmp}"], "is not a bundle, since it has no bundle.json"),
        (["{vae}/.."], "it is a model, pass one of its versions: 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    vae: Path, gan: Path, own: Path, run: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"vae": vae, "gan": gan, "own": own, "tmp": tmp_path}
    code, out, err = run(*(argument.format(**places) for argument in arguments))
    assert code in (1, 2)
    assert out == ""
    assert message in err


def test_data_of_other_classes_are_refused(own: Path, tmp_path: Path) -> None:
    model = find("digits-classifier", ["model.encoder_widths=[4, 4]", "model.features=8"]).build(ImageShape(6, 5, 3, 4))
    images = np.zeros((2, 6, 5, 3), np.uint8)
    few = write_bundle(
        model.eval(), name="few", models_dir=tmp_path, golden_images=images, class_names=list("abcdefghij")
    )
    with pytest.raises(Exception, match=r"knows the classes a, b, .*, and the data have 0, 1, 2"):
        evaluation.evaluate_bundle(few, own, evaluation.Amounts(20, 20, 2))


def test_frechet_is_that_of_the_normal_distributions() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 20_000, 3))
    assert samples.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Means 2 apart, deviations 1 and 3 of the first axis: 4 + (3 − 1)².
    b = b * [3, 1, 1] + [2, 0, 0]
    assert samples.frechet_distance(a, b) == pytest.approx(8, rel=0.05)
    assert samples.measure_frechet(a[:64], a, b) is None


def test_memory_tells_copies_from_new_images() -> None:
    random = np.random.default_rng(0)
    train, test, new = (random.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8) for count in (300, 100, 200))
    fresh, index = samples.measure_memory(new, train, test)
    assert fresh.ratio == pytest.approx(1, abs=0.05)
    assert fresh.nearer == pytest.approx(0.5, abs=0.12)
    assert fresh.copies == 0
    differences = (new[:, None].astype(float) - train[None]).reshape(200, 300, -1) / 255
    brute = np.sqrt((differences**2).sum(axis=2))
    np.testing.assert_array_equal(index, brute.argmin(axis=1))
    distances, _ = samples.nearest(new, train)
    np.testing.assert_allclose(distances, brute.min(axis=1), rtol=1e-5)
    # The pool is every third image: copies of these are at a distance of 0.
    copied, _ = samples.measure_memory(train[np.linspace(0, 299, 100).round().astype(int)], train, test)
    assert (copied.ratio, copied.nearer, copied.copies) == (0, 1, 100)


def test_classes_are_counted_with_their_certainty() -> None:
    def judged(*probabilities: list[float]) -> Judged:
        return Judged(np.zeros((len(probabilities), 2)), np.array(probabilities))

    drawn = judged([0.95, 0.05], [0.6, 0.4], [0.05, 0.95], [0.08, 0.92])
    test = judged([0.99, 0.01], [0.3, 0.7])
    found = samples.count_classes(drawn, test, np.array([0, 0]), np.array([0, 1, 1, 0]))
    assert (found.histogram, found.test_histogram) == ((2, 2), (2, 0))
    assert (found.sure, found.test_sure, found.agreeing, found.test_accuracy) == (0.75, 0.5, 0.5, 0.5)


def test_probes_tell_good_encodings_from_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "DRAWS", 3)
    random = np.random.default_rng(0)
    labels, test_labels = np.arange(120) % 4, np.arange(60) % 4
    good = tuple(np.eye(4)[part] + 0.05 * random.standard_normal((len(part), 4)) for part in (labels, test_labels))
    bad = (random.standard_normal((120, 4)), random.standard_normal((60, 4)))
    found = probes.probe({"good": (good[0], good[1]), "bad": bad}, labels, test_labels, (3, 50, 100, 1000))
    assert [entry.labelled for entry in found] == [50] * 8 + [100] * 8  # four classes; and there are no 1,000
    assert {entry.classifier for entry in found} == {"linear probe", "nearest neighbours", "SVM", "label spreading"}
    for entry in found:
        assert (entry.accuracy > 0.95) == (entry.encoding == "good"), entry


def test_numbers_may_lie_far_from_each_other_and_the_svm_tells_classes_all_the_same() -> None:
    """As a PixelCNN's features do: offsets change no distance, so they must not change the kernel's width."""
    random = np.random.default_rng(1)
    labels = np.arange(400) % 4
    numbers = (random.normal(size=(400, 6)) + 1.5 * np.eye(6)[labels]).astype(np.float32)
    offsets = np.array([0, 100, -100, 10, 50, 0], np.float32)
    train, test = slice(200), slice(200, 400)
    wrong = [
        1 - probes._svm_accuracy(given[train], labels[train], given[test], labels[test])
        for given in (numbers, numbers + offsets, np.column_stack([numbers, np.full(400, 9, np.float32)]))
    ]
    assert wrong[0] < 0.45
    assert np.ptp(wrong) <= 0.01, "but for the rounding of float32"
    constant = np.ones((200, 6), np.float32)
    assert probes._svm_accuracy(constant, labels[train], constant, labels[train]) == 0.25, "nothing varies"


def test_labels_spread_along_what_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rings, one in the other, and a label or two of each: what is near in a ring is far along it."""
    monkeypatch.setattr(probes, "DRAWS", 5)
    random = np.random.default_rng(0)

    def rings(count: int) -> tuple[Any, Any]:
        labels = np.arange(count) % 2
        angles = 2 * np.pi * random.random(count)
        ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return ways * (1 + 2 * labels[:, None]) + 0.05 * random.standard_normal((count, 2)), labels

    (train, labels), (test, test_labels) = rings(600), rings(200)
    found = {entry.classifier: entry.accuracy for entry in probes.probe({"": (train, test)}, labels, test_labels, (4,))}
    assert found["label spreading"] > 0.99
    assert max(accuracy for kind, accuracy in found.items() if kind != "label spreading") < 0.9


@pytest.mark.parametrize(
    ("of_classes", "count", "chosen"),
    [
        ((40, 40, 40), 30, (10, 10, 10)),
        ((40, 40, 40), 31, (10, 10, 10)),  # and one more of any
        ((118, 1, 2), 50, (47, 1, 2)),  # a class that is rare is there all the same
        ((2, 2, 2), 6, (2, 2, 2)),
    ],
)
def test_labelled_images_are_as_many_of_each_class(
    of_classes: tuple[int, ...], count: int, chosen: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(3), of_classes))
    found = [probes._choose(labels, count, random) for _ in range(2)]
    for index in found:
        assert len(set(index.tolist())) == count
        left = np.bincount(labels[index], minlength=3) - chosen
        assert left.min() >= 0
        assert left.sum() == count - sum(chosen)
    assert (set(found[0].tolist()) == set(found[1].tolist())) == (count == len(labels))


def test_labelled_rows_hold_every_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    picture = np.asarray(labelled_rows([[("one", images[:3])], [("two", images[3:])]]))
    there = {tuple(pixel) for pixel in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {tuple(pixel) for pixel in images.reshape(-1, 3).tolist()} <= there
