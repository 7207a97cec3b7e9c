"""The commands `ancestral-exporter import ...`. What takes seconds to import is imported when it is needed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ancestral.text import shown
from ancestral_exporter.errors import UsageError

if TYPE_CHECKING:
    from ancestral_exporter.foreign.write import Foreign

app = typer.Typer(help="Make a bundle of somebody else's model.", no_args_is_help=True, rich_markup_mode=None)


class ForeignRole(StrEnum):
    ENCODE = "encode"
    DECODE = "decode"
    FEATURES = "features"
    CLASSIFY = "classify"


class Axes(StrEnum):
    NCHW = "nchw"
    NHWC = "nhwc"


Models = Annotated[Path, typer.Argument(help="Folder of the models; the bundle goes to MODELS/NAME/VERSION/.")]
Name = Annotated[str, typer.Option(help="What the model shall be called.")]
Allowed = Annotated[
    float, typer.Option(help="How far an answer may be from the original's: |a - b| <= TOLERANCE (1 + |b|).")
]
# A deep net's float32 rounding, on the CPU as on a GPU without TF32.
_TOLERANCE = 1e-4


@app.command(name="onnx", short_help="An encoder, decoder, classifier or feature extractor in an ONNX file.")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="The ONNX file; weights in files beside it are taken along.")],
    models: Models,
    name: Name,
    role: Annotated[ForeignRole, typer.Option(help="What it does with an image, or (decode) with a latent.")],
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=NAME",
            help="Which output is which, where there are several: mean, log_variance, image, features, logits or "
            "probabilities.",
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="The floats that bytes are for the file: 0..1, -1..1, 0..255 or imagenet.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Subtracted after --scale, one number or one a channel.")] = None,
    std: Annotated[str | None, typer.Option(help="Divided by after --mean, one number or one a channel.")] = None,
    layout: Annotated[Axes | None, typer.Option(help="Where channels are, if both are possible.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Height, width, channels, where the file leaves them open.")
    ] = None,
    latent: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="The latent's size, where a decoder leaves it open.")
    ] = None,
    bgr: Annotated[bool, typer.Option("--bgr", help="The file has blue first, as OpenCV has.")] = False,
    classes: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    tolerance: Allowed = _TOLERANCE,
) -> None:
    """Put bytes in front of and behind somebody's ONNX file, verify it against the file as it is, write a bundle.

    The bundle takes and gives uint8 images [N,H,W,C], any number at once.
    """
    from ancestral_exporter.bundle.write import check_name
    from ancestral_exporter.foreign import onnx_model
    from ancestral_exporter.foreign.layout import read_sizes
    from ancestral_exporter.foreign.write import read_classes

    check_name(name)
    if classes is not None and role != ForeignRole.CLASSIFY:
        raise UsageError(f"--classes is for --role classify, not {role.value}")
    hwc = read_sizes("--image", image, "28x28x1", 3)
    request = onnx_model.Request(
        role=role.value,
        outputs=_named(output or []),
        scale=scale,
        mean=mean,
        std=std,
        layout=layout.value if layout else None,
        image=(hwc[0], hwc[1], hwc[2]) if hwc else None,
        latent=read_sizes("--latent", latent, "4x32x32"),
        bgr=bgr,
    )
    model = onnx_model.build(file, request)
    names = read_classes(classes, model.class_count) if classes is not None else ()
    _finish(model, name, models, tolerance, names)


@app.command(name="diffusers", short_help="An AutoencoderKL that diffusers has saved.")
def import_diffusers(
    folder: Annotated[Path, typer.Argument(help="Folder of an AutoencoderKL, or of a pipeline that has one.")],
    models: Models,
    name: Name,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of the images; by default what its config names.")
    ] = None,
    tolerance: Allowed = _TOLERANCE,
) -> None:
    """Export the encoder and the decoder of an AutoencoderKL, verify them, write a bundle. Needs diffusers.

    Latents are scaled as the diffusion model behind it was trained on them.
    """
    from ancestral_exporter.bundle.write import check_name
    from ancestral_exporter.foreign import kl
    from ancestral_exporter.foreign.layout import read_sizes

    check_name(name)
    sides = read_sizes("--size", size, "256x256", 2)
    _finish(kl.build(folder, (sides[0], sides[1]) if sides else None), name, models, tolerance)


def _named(pairs: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs:
            raise UsageError(f"--output must be OURS=NAME, such as mean=z_mean, not {pair!r}")
        if ours in named:
            raise UsageError(f"--output: {ours} is named twice")
        named[ours] = theirs
    return named


def _finish(model: Foreign, name: str, models: Path, tolerance: float, class_names: tuple[str, ...] = ()) -> None:
    from ancestral_exporter.foreign.write import write

    if not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance must be from 0 to below 1, not {tolerance:g}")
    for line in model.assumed:
        typer.echo(shown(line))
    typer.echo(f"wrote {shown(write(model, name, models, class_names=class_names, tolerance=tolerance))}")
