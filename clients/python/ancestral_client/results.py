"""What calls return: frozen, with numpy arrays inside.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ancestral_client import _arguments

if TYPE_CHECKING:
    from PIL import Image

# Pillow is imported by whoever wants a picture: others need not wait for it.


@dataclass(frozen=True, slots=True)
class Info:
    """What a reply says about itself."""

    request_id: str
    """The id that the server logged the call under."""
    model: str
    """Name of the model that answered."""
    version: int
    """Version of the model that answered."""
    queue_seconds: float
    """From admission until work on the first image began, on the server's clock."""
    compute_seconds: float
    """From then until the last image was ready, on the server's clock."""
    total_seconds: float
    """From the parsed request to the packed reply, on the server's clock; the network is not in it."""
    batch_size: int = 0
    """Images in the run that the call's images were in, theirs among them; of several runs, in the largest. 0 where the
    server does not tell."""


class _Pictures:
    """What can be done with the images of a result; a notebook shows them as a grid."""

    __slots__ = ()
    images: NDArray[np.uint8]

    def to_pil(self) -> list[Image.Image]:
        """N pictures of Pillow, grey or RGB; ValueError where images have neither 1 nor 3 channels."""
        from ancestral_client import pictures

        return [pictures.picture(image) for image in self.images]

    def grid(self, columns: int | None = None) -> Image.Image:
        """All images in one picture of Pillow: in rows of `columns`, by default about a square; small ones enlarged."""
        from ancestral_client import pictures

        most = None if columns is None else _arguments.count_of("columns", columns)
        return pictures.picture(pictures.grid(self.images, most))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the grid (.png), or the images [N,H,W,C] (.npy, .npz); FileProblem where that cannot be.

        The file is there as a whole when it is done, or what was there stays.
        """
        from ancestral_client import files

        target = Path(path)
        files.check_target(target, ".png", ".npy", ".npz")
        files.write_images(target, self.images, {})

    def _repr_png_(self) -> bytes | None:
        """None where the images make no picture."""
        from ancestral_client import pictures

        if self.images.shape[-1] not in pictures.CHANNELS:
            return None
        file = BytesIO()
        self.grid().save(file, "png")
        return file.getvalue()


# Arrays have no single truth value, so none of these compares by value.


@dataclass(frozen=True, slots=True, eq=False)
class Samples(_Pictures):
    """Images drawn from a model: the same model, version, seed and index always give the same bytes."""

    images: NDArray[np.uint8]
    """[N,H,W,C], in order of their index."""
    log_likelihood: NDArray[np.float32] | None
    """[N], nats, under the model at temperature 1; of a completion, that of its free pixels. None where the model has
    none."""
    seed: int
    """The seed that was used: yours, or the one that the server drew."""
    first_index: int
    """Index of the first image in the seed's sequence."""
    info: Info


@dataclass(frozen=True, slots=True, eq=False)
class SampledImage:
    """An image of a stream, finished: the one that `Samples` has under the same seed and index."""

    index: int
    """Its index in the seed's sequence."""
    seed: int
    """The seed that was used: yours, or the one that was drawn."""
    image: NDArray[np.uint8]
    """[H,W,C]."""
    log_likelihood: float | None
    """As in `Samples`, nats."""
    info: Info
    """The stream until now."""


@dataclass(frozen=True, slots=True, eq=False)
class PaintedRow:
    """A row of an image of a stream; those of one image come from top to bottom, and before the image."""

    index: int
    """The image's index in the seed's sequence."""
    row: int
    """Which row, 0 to H - 1 from the top."""
    pixels: NDArray[np.uint8]
    """[W,C]."""
    info: Info
    """The stream until now."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The posterior q(z|x) of images."""

    mean: NDArray[np.float32]
    """[N,Z]."""
    log_variance: NDArray[np.float32] | None
    """[N,Z], natural logarithm; None where the encoder is deterministic."""
    latent: NDArray[np.float32] | None
    """[N,Z], one draw per image; None unless a `draw_seed` was given."""
    info: Info


@dataclass(frozen=True, slots=True, eq=False)
class Decoding(_Pictures):
    """The images of latents."""

    images: NDArray[np.uint8]
    """[N,H,W,C], the mean of p(x|z), rounded to bytes."""
    info: Info
    mean: NDArray[np.float32] | None = None
    """[N,H,W,C], the mean of p(x|z) in units of bytes, not rounded; None unless asked for."""
    variance: NDArray[np.float32] | None = None
    """[N,H,W,C], the variance of p(x|z) in units of bytes squared; None unless asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """A hidden layer of a model."""

    features: NDArray[np.float32]
    """[N,F]."""
    feature_map: NDArray[np.float32] | None
    """[N,H',W',F'], with the features' place in the image; None unless asked for."""
    info: Info


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Which class images are of, of K."""

    logits: NDArray[np.float32]
    """[N,K], unnormalised natural logs of the probabilities."""
    probabilities: NDArray[np.float32]
    """[N,K]; each row sums to 1."""
    labels: NDArray[np.int64]
    """[N], the most probable class of each image, 0 to K - 1."""
    class_names: tuple[str, ...]
    """Names of the K classes; empty where the model has none."""
    info: Info

    @property
    def names(self) -> list[str]:
        """The name of each image's most probable class, or its number where classes have no names."""
        return [self.class_names[label] if self.class_names else str(label) for label in self.labels]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How likely a model finds images."""

    log_likelihood: NDArray[np.float32]
    """[N], nats."""
    bits_per_dim: NDArray[np.float32]
    """[N], -log_likelihood / (H W C ln 2): lower is more likely."""
    exact: bool
    """Whether these are exact, or bounds: at least this log-likelihood, at most these bits."""
    info: Info
    draws: int = 0
    """How many draws each bound was made of; 0 where they are exact."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that the exporter measured."""

    name: str
    value: float
    unit: str
    """For example "bits/dim"; may be empty."""
    split: str
    """"train", "validation" or "test"; may be empty."""
    exact: bool | None
    """Whether it is exact or a bound; None where that means nothing."""


@dataclass(frozen=True, slots=True)
class RoleForm:
    """What runs a role that paints images row by row."""

    role: str
    form: str
    """"onnx", its graph, or "kernel", its machine code on a GPU."""
    device: str
    """Where, as `Model.device` says it; empty of an older server."""
    reason: str
    """Why the graph runs it although the bundle has a kernel; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may ask for."""

    max_sample_count: int
    max_images: int
    max_temperature: float
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model. What the manifest says is empty or 0 where it could not be read."""

    name: str
    version: int
    serving: bool
    """Whether it answers calls."""
    state: str
    """"serving", "not serving", "loading" or "draining": taking no new calls, about to go."""
    reason: str
    """Why it does not serve; of one that serves, why what lies in its folder now was refused. Empty otherwise."""
    device: str
    """"cpu", "cuda" or, of the second GPU, "cuda:1"; on several, "cuda:0,cuda:1". Empty if it does not serve."""
    family: str
    description: str
    image_shape: tuple[int, int, int]
    """(H, W, C)."""
    levels: int
    """K, the number of values that a pixel takes."""
    latent_size: int
    """Z; 0 for a model without latents."""
    label_count: int
    """Number of classes that can be asked for; 0 for a model that is not class-conditional."""
    roles: tuple[str, ...]
    """What it can do: "sample", "encode", "decode", "features", "score", "classify"."""
    metrics: tuple[Metric, ...]
    limits: Limits | None
    """None if it does not serve."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What made the bundle: versions, recipe, seed."""
    class_names: tuple[str, ...] = ()
    """Names of the classes 0, 1, ...; empty where they have none."""
    forms: tuple[RoleForm, ...] = ()
    """What runs the roles that paint images row by row; empty if it does not serve."""

    def metric(self, name: str, split: str = "test") -> float | None:
        """The value of a figure, or None if the bundle has none of that name and split."""
        return next((m.value for m in self.metrics if (m.name, m.split) == (name, split)), None)
