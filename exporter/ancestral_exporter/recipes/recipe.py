"""A recipe: what is trained, on what, and how. Each dataclass is a section of a recipe's TOML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Le

from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.base import Count, ImageModel, ImageShape, NotNegative, Positive, Share

Rate = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Schedule:
    """`[schedule]`: how a model is fitted, on a one-cycle learning rate, with averaged weights; by AdamW, or with Muon.

    What is validated, selected and exported are the weights' exponential average (Polyak & Juditsky 1992).

    epochs: passes over the training images; 0 exports an untrained model. batch_size: images per step, over all
    devices. learning_rate: AdamW's at the peak of the cycle, and betas its betas. matrix_learning_rate: Muon's, which
    then moves the net's matrices (optimiser.py); AdamW moves all where unset. warmup_fraction: of all steps, before the
    peak. average_decay: of the averaged weights, per step. gradient_clip: largest norm of the gradient, times H·W·C; 0
    for no bound. patience: validations without a better one before stopping early; never where unset.
    """

    epochs: Count
    batch_size: Positive
    learning_rate: Rate
    matrix_learning_rate: Rate | None = None
    weight_decay: NotNegative = 0.0
    betas: tuple[Share, Share] = (0.9, 0.99)
    warmup_fraction: Annotated[Share, Le(1)] = 0.1
    average_decay: Share = 0.999
    gradient_clip: NotNegative = 1.0
    validate_every_epochs: Positive = 1
    patience: Positive | None = None


@dataclass(frozen=True)
class Reference:
    """`[[references]]`: a published or arithmetical figure to hold the result against, in bits/dim."""

    text: str
    bits_per_dim: float


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. family: as the file has it; `model_type` is its class and `model` its settings.

    family_sha256: of the file of a family that lies outside the package, since another file is another model.
    """

    name: str
    description: str
    family: str
    data: DataSettings
    model: Any
    schedule: Schedule
    model_type: type[ImageModel]
    references: tuple[Reference, ...] = ()
    family_sha256: str = ""

    def build(self, image: ImageShape) -> ImageModel:
        """An untrained model; its weights come from torch's global generator.

        Raises UsageError where the settings do not suit such images, which a family says by a ValueError.
        """
        if self.data.shift >= min(image.height, image.width):
            raise UsageError(
                f"{self.name}: data.shift is {self.data.shift}, and images are {image.height}×{image.width}: it "
                "must be smaller, so that something of each stays"
            )
        try:
            return self.model_type(image, self.model)
        except ValueError as error:
            raise UsageError(f"{self.name}: [model]: {error}") from error

    def with_epochs(self, epochs: int) -> Recipe:
        return dataclasses.replace(self, schedule=dataclasses.replace(self.schedule, epochs=epochs))

    def settings(self) -> dict[str, Any]:
        """Every number, as JSON knows it: two recipes with equal settings train the same model."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["model_type"]
        if not self.family_sha256:
            del values["family_sha256"]
        for name in ("data", "model", "schedule"):
            values[name] = dataclasses.asdict(values[name])
        return values | {"references": [dataclasses.asdict(reference) for reference in self.references]}
