"""Models of a server as parts of scikit-learn, which has to be installed beside the client.

>>> from ancestral_client.sklearn import EncodeFeatures
>>> make_pipeline(EncodeFeatures("digits-vae", scale=255 / 16), LogisticRegression())  # doctest: +SKIP

Shapes: N samples, H rows, W columns, C channels of the model's images, Z latent dimensions, F features.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from ancestral_client import _arrays
from ancestral_client.client import Client

Output = Literal["mean", "moments", "features"]
_OUTPUTS = ("mean", "moments", "features")


class _OfModel(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators do with X: it becomes images of the model."""

    model: str
    address: str
    scale: float | None
    version: int
    timeout: float
    tls: bool | None
    tls_ca: str | PathLike[str] | None
    tls_cert: str | PathLike[str] | None
    tls_key: str | PathLike[str] | None
    tls_name: str | None
    token_file: str | PathLike[str] | None

    def _client(self) -> Client:
        return Client(
            self.address,
            timeout=self.timeout,
            tls=self.tls,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            tls_name=self.tls_name,
            token_file=self.token_file,
        )

    def _learn_shape(self, client: Client, X: ArrayLike) -> NDArray[Any]:
        """The images of X, and from now on those of the version that is served now."""
        found = client.model(self.model, self.version)
        self.version_, self.image_shape_ = found.version, found.image_shape
        return self._images(validate_data(self, X))

    def _images(self, X: NDArray[Any]) -> NDArray[np.uint8]:
        """Rows as images; ValueError if they are too long or too short, or no levels."""
        pixels = math.prod(self.image_shape_)
        if X.shape[1] != pixels:
            shape = "×".join(map(str, self.image_shape_))
            raise ValueError(
                f"X has {X.shape[1]} features; {self.model} takes {pixels}, the pixels of an image of {shape}"
            )
        check_non_negative(X, type(self).__name__)
        whole = X.dtype.kind in "fiu" and self.scale is None and (np.rint(X) == X).all()
        # Levels that a data frame or a loader has made floats of are still levels.
        levels = _arrays.image_array("X", X, 1.0 if whole else self.scale)
        return levels.reshape(-1, *self.image_shape_)

    def _fitted_images(self, X: ArrayLike) -> NDArray[np.uint8]:
        check_is_fitted(self)
        return self._images(validate_data(self, X, reset=False))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


class EncodeFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _OfModel):  # type: ignore[misc]
    """Images to what a model makes of them, as a transformer.

    X is [N, H·W·C], each row an image in raster order: whole levels of 0 to 255, or any numbers with `scale`, which
    times that are levels (`scale=255` for images in [0,1]). The server is asked in `fit` and in `transform`; nothing is
    learnt but which version of the model answers, `version_`, and its `image_shape_`, so that `transform` goes on with
    the same one.

    `output` is "mean", the posterior's means [N,Z]; "moments", means and log-variances [N,2Z]; or "features", a hidden
    layer [N,F]. `address`, `version`, `timeout`, `token_file` and `tls...` are those of a `Client`. A token itself is
    no parameter, since whatever prints or keeps a pipeline would show it: it is in `token_file` or ANCESTRAL_TOKEN.
    Raises ValueError for a wrong X, and what a client raises.
    """

    def __init__(
        self,
        model: str,
        *,
        address: str = "localhost:8500",
        output: Output = "mean",
        scale: float | None = None,
        version: int = 0,
        timeout: float = 60.0,
        tls: bool | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        tls_name: str | None = None,
        token_file: str | PathLike[str] | None = None,
    ) -> None:
        self.model = model
        self.address = address
        self.output = output
        self.scale = scale
        self.version = version
        self.timeout = timeout
        self.tls = tls
        self.tls_ca = tls_ca
        self.tls_cert = tls_cert
        self.tls_key = tls_key
        self.tls_name = tls_name
        self.token_file = token_file

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # what a server answers in
        return tags

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Asks the server which version of the model answers, and what it makes of the first image of X."""
        if self.output not in _OUTPUTS:
            raise ValueError(f"output: is {self.output!r}; must be one of {', '.join(map(repr, _OUTPUTS))}")
        with self._client() as client:
            images = self._learn_shape(client, X)
            self._n_features_out = self._outputs(client, images[:1]).shape[1]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """[N,Z], [N,2Z] or [N,F], float32."""
        images = self._fitted_images(X)
        with self._client() as client:
            return self._outputs(client, images)

    def _outputs(self, client: Client, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.output == "features":
            return client.features(self.model, images, version=self.version_).features
        posterior = client.encode(self.model, images, version=self.version_)
        if self.output == "mean":
            return posterior.mean
        if posterior.log_variance is None:
            raise ValueError(f"output: {self.model} has no variances, its encoder is deterministic; choose 'mean'")
        return np.concatenate([posterior.mean, posterior.log_variance], axis=1)


class DensityScorer(OutlierMixin, _OfModel):  # type: ignore[misc]
    """Likelihoods of images under a model, as an outlier detector.

    X, `scale` and what says where the server is as in EncodeFeatures. `score_samples` gives log-likelihoods in nats,
    or the model's lower bounds of them. `fit` sets `offset_` so that a share `contamination` of its X, above 0 and at
    most 0.5, is below it; those are outliers, -1 in `predict`.

    A likelihood may mislead: images that are simpler than those the model was trained on can be more likely than these
    (Nalisnick et al. 2019). Look at how the scores of known outliers lie before trusting it.
    """

    def __init__(
        self,
        model: str,
        *,
        address: str = "localhost:8500",
        contamination: float = 0.1,
        scale: float | None = None,
        version: int = 0,
        timeout: float = 60.0,
        tls: bool | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        tls_name: str | None = None,
        token_file: str | PathLike[str] | None = None,
    ) -> None:
        self.model = model
        self.address = address
        self.contamination = contamination
        self.scale = scale
        self.version = version
        self.timeout = timeout
        self.tls = tls
        self.tls_ca = tls_ca
        self.tls_cert = tls_cert
        self.tls_key = tls_key
        self.tls_name = tls_name
        self.token_file = token_file

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Scores X, and sets the threshold."""
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination: is {self.contamination!r}; must be above 0, at most 0.5")
        with self._client() as client:
            images = self._learn_shape(client, X)
            scores = self._scores(client, images)
        self.offset_ = float(np.quantile(scores, self.contamination))
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """[N], nats: higher is more likely."""
        images = self._fitted_images(X)
        with self._client() as client:
            return self._scores(client, images)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """[N], nats above the threshold: below 0 are outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """[N]: 1 for images like those of `fit`, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _scores(self, client: Client, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return client.score(self.model, images, version=self.version_).log_likelihood.astype(np.float64)
