"""EncodeFeatures and DensityScorer, against the real server."""

from __future__ import annotations

import pickle
import re
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_client.sklearn import DensityScorer, EncodeFeatures
from running import PATIENT, ServerProcess
from shared import TrainedVae

# A model takes images of one size, and scikit-learn's checks bring X of several: each meets the model of its size.
USUAL = 3
FEATURES = {
    "check_estimators_overwrite_params": 2,
    "check_estimators_fit_returns_self": 2,
    "check_readonly_memmap_input": 2,
    "check_n_features_in_after_fitting": 4,
    "check_positive_only_tag_during_fit": 4,
    "check_estimators_dtypes": 5,
    "check_dtype_object": 10,
    "check_outliers_fit_predict": 2,
    "check_outliers_train": 2,
    "check_classifier_data_not_an_array": 2,
    "check_fit2d_1sample": 10,
    "check_fit2d_1feature": 1,
    "check_fit_idempotent": 2,
    "check_fit_check_is_fitted": 2,
    "check_n_features_in": 2,
}
# The checks that do not pass: they bring negative numbers, which are no levels, although the estimator's tags say that
# it takes none.
NEGATIVE = ("check_outliers_fit_predict", "check_outliers_train")
# Why scikit-learn itself skips a check where something optional is missing.
SKIPPED = ("SCIPY_ARRAY_API", "pandas is not installed")


@contextmanager
def skipping() -> Iterator[None]:
    """Lets a check skip itself, for a reason of ours."""
    try:
        yield
    except unittest.SkipTest as skipped:
        if not str(skipped).startswith(SKIPPED):
            raise AssertionError(str(skipped)) from skipped


Estimator = Callable[..., Any]


def write_row_model(models: Path, width: int) -> None:
    """A bundle `rowWIDTH`: the encoder and the score of `tally`, of images 1×WIDTH×1."""
    name = f"row{width}"
    folder = models / name / "1"

    def change(manifest: bundle_pb2.Bundle) -> None:
        manifest.image.height, manifest.image.width = 1, width
        del manifest.roles[2:]
        for role in manifest.roles:
            role.inputs[0].shape[:] = [1, width, 1]
        images = np.random.default_rng(5).integers(0, 256, (3, 1, width, 1), dtype=np.uint8)
        code = toybundle.encode(images)
        arrays = {"encode/in/image": images, "encode/out/code": code, "score/in/image": images}
        with (folder / "golden.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **{"score/out/log_likelihood": -code[:, 0]})
        (folder / "sample.onnx").unlink()
        del manifest.files[:]
        manifest.files.extend(toybundle.listed(folder / file) for file in ("encode.onnx", "golden.npz"))

    def graph(model: onnx.ModelProto) -> None:
        for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (1, width, 1), strict=True):
            dimension.dim_value = size

    toybundle.write(models, name, change=change, graph=graph)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    for width in {USUAL, *FEATURES.values()}:
        write_row_model(models, width)
    with ServerProcess(models, *PATIENT) as server:
        yield server.address


@pytest.mark.parametrize("kind", [EncodeFeatures, DensityScorer])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(address: str, kind: Estimator) -> None:
    done = []
    for _, check in estimator_checks_generator(kind("any")):
        name = check.func.__name__
        # Its blobs reach to 25 or so, which are to be levels.
        estimator = kind(f"row{FEATURES.get(name, USUAL)}", address=address, scale=8)
        refused = pytest.raises(ValueError, match="Negative values in data")
        with refused if name in NEGATIVE else skipping():
            check(estimator)
        done.append(name)
    assert len(done) > 40


def some_rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, USUAL)).astype(float)


def test_a_transformer_in_a_pipeline_gives_what_the_client_gives(address: str) -> None:
    X, images = some_rows(40), some_rows(40).astype(np.uint8).reshape(-1, 1, USUAL, 1)
    y = X[:, 0] > 127
    search = GridSearchCV(
        make_pipeline(EncodeFeatures("row3", address=address), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": [1.0, 10.0]},
        cv=2,
    ).fit(X, y)
    encode = pickle.loads(pickle.dumps(search.best_estimator_[0]))
    assert np.array_equal(encode.transform(X), toybundle.encode(images))
    assert encode.get_feature_names_out().tolist() == ["encodefeatures0", "encodefeatures1"]
    assert clone(encode).get_params() == encode.get_params()
    assert search.score(X, y) > 0.9


def test_a_scorer_finds_what_is_least_likely(address: str) -> None:
    X = some_rows(40)
    scorer = DensityScorer("row3", address=address, contamination=0.1).fit(X)
    assert np.allclose(scorer.score_samples(X), -X.sum(1) / 255, atol=1e-5)
    assert set(np.flatnonzero(scorer.predict(X) == -1)) == set(np.argsort(X.sum(1))[-4:])


def test_the_pipeline_of_the_readme_is_as_accurate_as_it_says(
    trained_vae: TrainedVae, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "clients" / "python" / "README.md").read_text()
    (block,) = (
        block for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "EncodeFeatures" in block
    )
    stated = re.search(r"more than (0\.\d+) after two epochs", page)
    assert stated is not None
    with ServerProcess(trained_vae.models, *PATIENT) as server:
        exec(compile(block.replace("localhost:8500", server.address), "README.md", "exec"), {})
    assert float(capsys.readouterr().out) > float(stated[1])


@pytest.mark.parametrize(
    ("X", "options", "problem"),
    [
        (np.zeros((2, 4)), {}, "X has 4 features; row3 takes 3, the pixels of an image of 1×3×1"),
        (np.full((2, 3), 0.5), {}, r"X: must be uint8 .*scale=255 for images in \[0,1\]"),
        (np.full((2, 3), 256.0), {}, "X: times scale=1 is from 256 to 256"),
        (np.full((2, 3), -1.0), {}, "Negative values"),
        (np.zeros((2, 3)), {"output": "latents"}, "output: is 'latents'; must be one of 'mean'"),
        (np.zeros((2, 3)), {"output": "moments"}, "row3 has no variances"),
    ],
)
def test_what_makes_no_images_is_refused_with_the_remedy(
    address: str, X: np.ndarray[Any, Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        EncodeFeatures("row3", address=address, **options).fit(X)
