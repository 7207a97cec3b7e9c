"""Writes a recipe for images that were looked at: `ancestral-exporter new-recipe`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ancestral.bundle import rules
from ancestral.text import shown
from ancestral_exporter.bundle.manifest import read_manifest, settings_of
from ancestral_exporter.data import own
from ancestral_exporter.data.readers import Source
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import UsageError, nearest
from ancestral_exporter.files import check_place
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.classifier import Classifier, EncoderSizes, encoder_sizes
from ancestral_exporter.recipes.reading import SUFFIX

# Longer sides than this are scaled down: a PixelCNN draws every value one after the other.
LONGEST_SIDE = 32
# As many different intensities, or fewer, are categories, and a softmax over them learns from hundreds of images; more
# are a scale of 256 levels.
LEVELS = 16
# A training of so many steps shows what a model makes of the images. Of large images there are fewer: as many as read
# so many pixels in training. Measured on one core of a machine that others used too, in seconds a step of some 48
# colour images: PixelCNN 0.36 at 12×12, 1.3 at 28×28; VAE 0.08 and 0.35; GAN 0.06 and 0.21.
_STEPS = 3000
_PIXELS = {"pixelcnn": 30e6}
_PIXELS_OF_OTHERS = 80e6
# Images from so many pixels on have a narrower PixelCNN, and from so many rows on one whose windows are dilated.
_LARGE = 400
_HIGH = 16
# Classes that a comment names.
_NAMED = 20

_MODELS = {
    "vae": """\
[model]
latent_size = 16            # numbers that an image is encoded as
{likelihood}
channels = 32               # width of the nets
features = 256              # what ExtractFeatures gives
blocks = 0                  # residual blocks after each change of size
decoder_dropout = 0.2
kl_warmup_fraction = 0.3    # of the training, until the KL term counts in full
""",
    "pixelcnn": """\
[model]
channels = {width}               # width of the net
vertical_layers = 6         # depth; the horizontal layers are what a sample waits for
horizontal_layers = 2
first_window = [2, 5]       # rows above and columns that the first layer sees
first_pixels = 3
{dilations}{likelihood}
dropout = 0.2
label_count = {classes}            # classes to sample by; 0: none
""",
    "gan": """\
[model]
latent_size = 64
channels = 32               # width of the nets; a DCGAN of 28×28 images has 64
features = 128              # what ExtractFeatures gives
gradient_penalty = 1.0      # higher: calmer and blurrier
""",
    "autoencoder": """\
[model]
latent_size = 16            # numbers that an image is encoded as
channels = 32
features = 256              # what ExtractFeatures gives
noise = 0.1                 # the share of values that it has to restore
""",
    "classifier": """\
[model]
label_count = {classes}             # classes of the images
# A bundle whose encoder it begins from, MODELS/NAME/VERSION, of an autoencoder or a VAE of such images; "" for none.
# What follows is of the encoder, and must be as it was there: new-recipe --pretrained BUNDLE writes it so.
pretrained = {pretrained}
encoder_widths = {widths}
blocks = {blocks}
features = {features}              # what ExtractFeatures gives
dropout = 0.2
""",
}
# p(level) of a value, by what the levels are, and what a PixelCNN is fed of them.
_SCALE = """\
likelihood = "mixture-of-logistics"  # of the levels of a value: they are a scale
mixtures = {mixtures}               # logistics of each value"""
_CATEGORIES = """\
likelihood = "categorical"  # a softmax over the levels of each value"""
_ONE_HOT = """
one_hot = true              # levels as categories, not only as points on a scale"""
# Five layers after the first, which sees two rows: 18 rows above.
_DILATIONS = """\
row_dilations = [1, 2, 4, 8]     # rows that the further layers look up
column_dilations = [1, 2, 4, 4]
"""
# Training images of a classifier are moved, by less where they are small: it must not learn single pixels by heart.
_SHIFT = """\
shift = {shift}                   # pixels by which each is moved, at most, every time that it is trained on
"""
_SCHEDULES = {
    "vae": ("learning_rate = 3e-3", "weight_decay = 0.05", "average_decay = 0.995"),
    "pixelcnn": ("learning_rate = 3e-3", "weight_decay = 0.1", "average_decay = 0.995"),
    "gan": ("learning_rate = 1e-3", "betas = [0.0, 0.99]", "warmup_fraction = 0.02", "gradient_clip = 0"),
    "autoencoder": ("learning_rate = 3e-3", "weight_decay = 0.01", "average_decay = 0.99"),
    "classifier": ("learning_rate = 1e-3", "weight_decay = 0.05", "average_decay = 0.99"),
}


@dataclass(frozen=True)
class Written:
    """A recipe's text, and what was found out about the images: a description and what was left out."""

    text: str
    description: str
    left_out: Sequence[str]


def check_file(file: Path) -> None:
    """Raises UsageError unless a recipe can be written to this new file and its model be called as it: asked first."""
    if file.suffix != SUFFIX:
        raise UsageError(f"{file}: a recipe's file ends in {SUFFIX}")
    if not rules.NAME.fullmatch(file.stem):
        raise UsageError(
            f"{file}: the model is called as the file, and the name {file.stem!r} does not match {rules.NAME.pattern}"
        )
    if os.path.lexists(file):
        raise UsageError(f"{file}: is there already; it is not overwritten")
    check_place(file)


def write(family: str, path: Path, pretrained: Path | None = None) -> Written:
    """A commented recipe of that family for the images of `path`. Raises UsageError and DataError.

    pretrained: of a classifier, the bundle whose encoder it begins from; the images are then as they were there.
    """
    if family not in _MODELS:
        raise UsageError(f"no recipe can be written for family {family!r}{nearest(family, _MODELS)}; "
                         f"there are: {', '.join(_MODELS)}")  # fmt: skip
    if pretrained and family != Classifier.family:
        raise UsageError(
            f"--pretrained {pretrained}: is for a classifier; give --family {Classifier.family}, or leave it out"
        )
    begun = _encoder(pretrained) if pretrained else None
    looked = own.look(Source(path))
    settings = begun.data if begun else _settings(looked)
    data = own.load(settings, path)
    if family == Classifier.family and not data.classes:
        raise UsageError(
            f"{path}: {data.description}; a classifier needs two classes or more: a folder for each, or labels"
        )
    image = data.image
    size = [image.height, image.width]
    batch = 50 if len(data.train) >= 500 else max(2, len(data.train) // 10)
    steps = min(_STEPS, round(_PIXELS.get(family, _PIXELS_OF_OTHERS) / (batch * size[0] * size[1])))
    epochs = max(1, round(steps * batch / len(data.train)))
    title = path.resolve().name
    count = len(looked.common)
    height, width = looked.common[0]
    sizes = f"# The images are of {count} sizes; the commonest is {height}×{width}.\n" if count > 1 else ""
    named = ", ".join(map(shown, data.classes[:_NAMED])) + (" and more" if len(data.classes) > _NAMED else "")
    classes = f"# {len(data.classes)} classes: {named}\n" if data.classes else "# The images have no classes.\n"
    shift = _SHIFT.format(shift=min(2, min(size) // 8)) if family == Classifier.family else ""
    text = f"""\
# Train it with: ancestral-exporter train THIS_FILE --data {shown(shlex.quote(str(path)))} --models models
description = {_quoted(f"{family} of {title}, {size[0]}×{size[1]}")}
family = "{family}"

{sizes}{classes}\
[data]
source = "images"
size = {size}             # height and width of what the model sees
resize = "{settings.resize}"             # "crop" its middle, "fit" all of it on black, or "stretch"
colour = "{settings.colour}"
levels = {settings.levels}                 # intensities per channel, 2 to 256
validation = 0.1            # shares of the images, chosen by their content
test = 0.1
{shift}
{_model(family, image, len(data.classes), pretrained, begun)}
[schedule]
epochs = {epochs}                # some {steps} steps
batch_size = {batch}
{chr(10).join(_SCHEDULES[family])}
"""
    return Written(text, data.description, data.left_out)


def _quoted(text: str) -> str:
    return json.dumps(shown(text), ensure_ascii=False)


def _settings(looked: own.Look) -> DataSettings:
    """What suits images that were looked at."""
    height, width = looked.common[0]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    levels = looked.levels if looked.levels <= LEVELS else 256
    return DataSettings("images", size=size, colour=looked.colour, levels=levels)


@dataclass(frozen=True)
class _Begun:
    """What a classifier must have in common with the bundle that it begins from."""

    data: DataSettings
    sizes: EncoderSizes


def _encoder(bundle: Path) -> _Begun:
    manifest = read_manifest(bundle)
    sizes, image = encoder_sizes(bundle), manifest.image
    if image.channels not in (1, 3):
        raise UsageError(f"{bundle}: its images have {image.channels} channels; those of a folder have 1 or 3")
    before = settings_of(manifest).get("data")
    return _Begun(
        DataSettings(
            "images",
            size=(image.height, image.width),
            resize=before.get("resize", "crop") if isinstance(before, dict) else "crop",
            colour="grey" if image.channels == 1 else "rgb",
            levels=image.levels,
        ),
        sizes,
    )


def _model(family: str, image: ImageShape, classes: int, pretrained: Path | None, begun: _Begun | None) -> str:
    """The section [model]."""
    scale, pixelcnn = image.levels > LEVELS, family == "pixelcnn"
    likelihood = _SCALE.format(mixtures=10 if pixelcnn else 5) if scale else _CATEGORIES
    sizes = begun.sizes if begun else None
    return _MODELS[family].format(
        width=48 if image.height * image.width < _LARGE else 32,
        dilations=_DILATIONS if image.height >= _HIGH and image.width >= _HIGH else "",
        likelihood=likelihood + (_ONE_HOT if pixelcnn and not scale else ""),
        classes=classes,
        pretrained=json.dumps(str(pretrained or ""), ensure_ascii=False),
        widths=list(sizes.encoder_widths) if sizes else [32, 64],
        blocks=sizes.blocks if sizes else 0,
        features=sizes.features if sizes else 256,
    )
