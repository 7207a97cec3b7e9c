"""What can be trained, and every number of it. Nothing else in the exporter holds a hyper-parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from dataclasses import dataclass

from ancestral_exporter import tiles
from ancestral_exporter.data import FETCHED
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.base import ImageModel, ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN
from ancestral_exporter.models.vae import VAE


@dataclass(frozen=True)
class VAENet:
    """The arguments of `models.vae.VAE`."""

    likelihood: str
    latent_size: int
    channels: int
    features: int
    blocks: int
    encoder_dropout: float
    decoder_dropout: float
    encoder_widths: tuple[int, ...] | None = None  # unset: as the decoder
    encoder_blocks: int | None = None
    encoder_features: int | None = None

    def build(self, image: ImageShape) -> ImageModel:
        return VAE(
            image,
            likelihood_name=self.likelihood,
            latent_size=self.latent_size,
            channels=self.channels,
            features=self.features,
            blocks=self.blocks,
            encoder_widths=self.encoder_widths,
            encoder_blocks=self.encoder_blocks,
            encoder_features=self.encoder_features,
            encoder_dropout=self.encoder_dropout,
            decoder_dropout=self.decoder_dropout,
        )


@dataclass(frozen=True)
class PixelCNNNet:
    """The arguments of `models.pixelcnn.GatedPixelCNN`."""

    channels: int
    vertical_layers: int
    horizontal_layers: int
    head_channels: int
    first_window: tuple[int, int]
    first_pixels: int
    one_hot: bool
    dropout: float
    label_count: int = 0

    def build(self, image: ImageShape) -> ImageModel:
        return GatedPixelCNN(
            image,
            channels=self.channels,
            vertical_layers=self.vertical_layers,
            horizontal_layers=self.horizontal_layers,
            head_channels=self.head_channels,
            first_window=self.first_window,
            first_pixels=self.first_pixels,
            one_hot=self.one_hot,
            dropout=self.dropout,
            label_count=self.label_count,
        )


@dataclass(frozen=True)
class Schedule:
    """How a model is fitted: AdamW on a one-cycle learning rate, with averaged weights.

    What is validated, selected and exported are the weights' exponential average (Polyak & Juditsky 1992).
    """

    epochs: int
    batch_size: int  # images per step, over all devices
    learning_rate: float  # at the peak of the cycle
    weight_decay: float
    warmup_fraction: float  # of all steps, before the peak
    average_decay: float  # per step
    kl_warmup_fraction: float = 0.0  # of all steps, over which the KL term's weight grows from 0 to 1 (VAE)
    gradient_clip: float = 1.0  # largest norm of the gradient of nats per dimension
    validate_every_epochs: int = 1
    patience: int | None = None  # validations without a better one before stopping early; None: never


@dataclass(frozen=True)
class Reference:
    """A published or arithmetical figure to hold the result against."""

    text: str
    bits_per_dim: float


@dataclass(frozen=True)
class Recipe:
    name: str
    description: str
    data: str  # a name of data.load
    net: VAENet | PixelCNNNet
    schedule: Schedule
    references: tuple[Reference, ...]

    def build(self, image: ImageShape) -> ImageModel:
        """An untrained model; its weights come from torch's global generator."""
        return self.net.build(image)

    def settings(self) -> dict[str, object]:
        """Every number, as JSON knows it: two recipes with equal settings train the same model."""
        return dataclasses.asdict(self)


_DIGITS_REFERENCES = (
    Reference("uniform over 17 levels", 4.0875),
    Reference("published VAE, bound (jmtomczak/intro_dgm)", 2.27),
    Reference("published autoregressive model, exact (jmtomczak/intro_dgm)", 2.00),
)
# nats / (784 ln 2)
_MNIST_REFERENCES = (
    Reference("uniform over 2 levels (543.4 nats)", 1.0),
    Reference("published conv VAE, bound (pytorch-generative: 86.77 nats)", 0.1597),
    Reference("published Gated PixelCNN, exact (pytorch-generative: 81.50 nats)", 0.1500),
)

# Also of the conditional model, whose figures are then of the same net.
_DIGITS_PIXELCNN = PixelCNNNet(
    channels=64,
    vertical_layers=6,
    horizontal_layers=2,
    head_channels=128,
    first_window=(2, 5),
    first_pixels=3,
    one_hot=True,
    dropout=0.4,
)
_DIGITS_SCHEDULE = Schedule(
    epochs=34,
    batch_size=25,
    learning_rate=4e-3,
    weight_decay=0.3,
    warmup_fraction=0.1,
    average_decay=0.997,
    validate_every_epochs=2,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits-vae",
            description="convolutional VAE of 8×8 digits, 17 levels",
            data="digits",
            net=VAENet(
                likelihood="categorical",
                latent_size=24,
                channels=64,
                features=512,
                blocks=0,
                encoder_dropout=0.0,
                decoder_dropout=0.5,
            ),
            schedule=Schedule(
                epochs=100,
                batch_size=50,
                learning_rate=3e-3,
                weight_decay=0.05,
                warmup_fraction=0.1,
                average_decay=0.995,
                kl_warmup_fraction=0.3,
                validate_every_epochs=2,
            ),
            references=_DIGITS_REFERENCES,
        ),
        Recipe(
            name="digits-pixelcnn",
            description="gated PixelCNN of 8×8 digits, 17 levels",
            data="digits",
            net=_DIGITS_PIXELCNN,
            schedule=_DIGITS_SCHEDULE,
            references=_DIGITS_REFERENCES,
        ),
        Recipe(
            name="digits-pixelcnn-conditional",
            description="gated PixelCNN of 8×8 digits, 17 levels, given the digit",
            data="digits",
            net=dataclasses.replace(_DIGITS_PIXELCNN, label_count=10),
            schedule=_DIGITS_SCHEDULE,
            references=_DIGITS_REFERENCES,
        ),
        Recipe(
            name="tiles-pixelcnn",
            description="gated PixelCNN of 6×6 colour images of known entropy, 4 levels",
            data="tiles",
            net=PixelCNNNet(
                channels=32,
                vertical_layers=2,
                horizontal_layers=2,
                head_channels=64,
                first_window=(2, 3),
                first_pixels=2,
                one_hot=True,
                dropout=0.0,
            ),
            schedule=Schedule(
                epochs=8,
                batch_size=50,
                learning_rate=5e-3,
                weight_decay=0.3,
                warmup_fraction=0.1,
                average_decay=0.99,
            ),
            references=(Reference("uniform over 4 levels", 2.0), Reference("exact entropy", tiles.BITS_PER_DIM)),
        ),
        Recipe(
            name="mnist-vae",
            description="convolutional VAE of binarised MNIST",
            data="mnist",
            net=VAENet(
                likelihood="bernoulli",
                latent_size=32,
                channels=32,
                features=512,
                blocks=1,
                encoder_dropout=0.0,
                decoder_dropout=0.0,
                encoder_widths=(16, 32, 32),
                encoder_blocks=0,
                encoder_features=128,
            ),
            schedule=Schedule(
                epochs=100,
                batch_size=128,
                learning_rate=2e-3,
                weight_decay=0.01,
                warmup_fraction=0.1,
                average_decay=0.999,
                kl_warmup_fraction=0.1,
                patience=15,
            ),
            references=_MNIST_REFERENCES,
        ),
        Recipe(
            name="mnist-pixelcnn",
            description="gated PixelCNN of binarised MNIST, 8 layers of 64 channels",
            data="mnist",
            net=PixelCNNNet(
                channels=64,
                vertical_layers=8,
                horizontal_layers=8,
                head_channels=64,
                first_window=(2, 3),
                first_pixels=2,
                one_hot=False,
                dropout=0.0,
            ),
            schedule=Schedule(
                epochs=50,
                batch_size=64,
                learning_rate=1e-3,
                weight_decay=0.01,
                warmup_fraction=0.1,
                average_decay=0.999,
                patience=10,
            ),
            references=_MNIST_REFERENCES,
        ),
    )
}


def find(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError that lists those there are."""
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def adapt(recipe: Recipe, *, epochs: int | None = None, likelihood: str | None = None) -> Recipe:
    """The recipe with other epochs or, for a VAE, another p(x|z)."""
    if epochs is not None:
        if epochs < 0:
            raise UsageError(f"--epochs must be 0 or more, not {epochs}")
        recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, epochs=epochs))
    if likelihood is not None:
        if not isinstance(recipe.net, VAENet):
            raise UsageError(f"--likelihood is for VAEs; {recipe.name} is always categorical over levels")
        recipe = dataclasses.replace(recipe, net=dataclasses.replace(recipe.net, likelihood=likelihood))
    return recipe


def refuse_idle(recipe: Recipe, given: Set[str]) -> None:
    """Raises UsageError where one of the options that were `given`, by name, would change nothing for the recipe."""
    if "data" in given and recipe.data not in FETCHED:
        raise UsageError(
            f"--data has no effect on {recipe.name}: its data, the {recipe.data}, are included; leave it out"
        )
    for option in ("precision", "devices"):
        if option in given and not recipe.schedule.epochs:
            raise UsageError(f"--{option} has no effect with 0 epochs, where nothing is trained; leave it out")
