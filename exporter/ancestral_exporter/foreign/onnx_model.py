"""An ONNX file as a model of a bundle: one role, whose answers are those of the file as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ancestral.text import one_line, shown
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array, Arrays
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.foreign import around
from ancestral_exporter.foreign.layout import Layout, find_layout
from ancestral_exporter.foreign.scale import Scale, scale
from ancestral_exporter.foreign.source import Source, describe, digest, read_source
from ancestral_exporter.models.base import ForeignGraph, ImageShape
from ancestral_exporter.models.roles import image_tensor, tensor

# What each role gives, what of it must be there first, and what the one output of a file is taken for.
ROLES: Mapping[str, tuple[str, ...]] = {
    "encode": ("mean", "log_variance"),
    "decode": ("image",),
    "features": ("features",),
    "classify": ("logits", "probabilities"),
}
_MEANINGS = {
    "mean": bundle_pb2.MEANING_MEAN,
    "log_variance": bundle_pb2.MEANING_LOG_VARIANCE,
    "features": bundle_pb2.MEANING_FEATURES,
    "logits": bundle_pb2.MEANING_LOGITS,
}
# The least normal float32: the logarithm of a probability that a softmax has rounded to 0 is that of this one.
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
# Outputs that are named where they are left out.
_MOST_TOLD = 10
# Images that a file is tried with first: black, white, and noise.
_TRIED = 4


@dataclass(frozen=True)
class Request:
    """What the file does not say, as it was typed; None where it was not. outputs: names in the file, by ours."""

    role: str
    outputs: Mapping[str, str]
    scale: str | None = None
    mean: str | None = None
    std: str | None = None
    layout: str | None = None
    image: tuple[int, int, int] | None = None
    latent: tuple[int, ...] | None = None
    bgr: bool = False


@dataclass(frozen=True)
class OnnxModel:
    """A `Bundled` of one graph. assumed: what was made of the file, in sentences. class_count: K of a classifier."""

    image: ImageShape
    latent_size: int
    class_count: int
    graph: ForeignGraph
    assumed: tuple[str, ...]
    origin: Mapping[str, str]
    family: str = "onnx"
    label_count: int = 0

    def graphs(self) -> list[ForeignGraph]:
        return [self.graph]


def build(path: Path, request: Request) -> OnnxModel:
    """Raises UsageError or ExporterError, one line each, where the file cannot be such a role or is not certain."""
    if request.role not in ROLES:
        raise UsageError(f"--role must be one of {', '.join(ROLES)}, not {request.role!r}")
    source = read_source(path)
    outputs = _outputs(source, request)
    try:
        return (_decoder if request.role == "decode" else _reader)(source, request, outputs)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except ValueError as error:
        raise ExporterError(f"{path}: {one_line(error)}") from error


def trial_images(image: ImageShape, count: int) -> Array:
    """Images [N,H,W,C] uint8: a black and a white one, which find divisions by 0, and random bytes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *image.hwc), dtype=np.uint8)
    images[0], images[1] = 0, 255
    return images


def _reader(source: Source, request: Request, outputs: Mapping[str, str]) -> OnnxModel:
    """A role that takes images and gives rows of numbers."""
    if request.latent is not None:
        raise UsageError(f"--latent is of a decoder, not of {request.role}")
    layout = find_layout(f"input {source.input!r}", source.sizes, request.layout, request.image)
    scaling = _scaling(source.dtype != np.uint8, request, layout, f"input {source.input!r}")
    image = ImageShape(*layout.image, levels=256)
    prepare = partial(_prepared, layout=layout, scaling=scaling, dtype=source.dtype, reverse=request.bgr)
    found = _tried(source, prepare(trial_images(image, _TRIED)), outputs)
    assumed = [f"input {source.input!r}: {layout.text}, {scaling.text if scaling else 'bytes as they are'}"]
    assumed += ["channels: blue first"] if request.bgr else []
    wanted: dict[str, around.Wanted] = {}
    least: dict[str, float | None] = {}
    specs = []
    for key, output in outputs.items():
        if not np.issubdtype(found[output].dtype, np.floating):
            raise UsageError(f"output {output!r} is {found[output].dtype}, {key} must be floats")
        name = "logits" if key == "probabilities" else key
        size = math.prod(found[output].shape[1:])
        logs = key == "probabilities" or (key == "logits" and around.ends_in_softmax(source.model, output))
        if logs:
            _check_probabilities(output, found[output].reshape(_TRIED, size))
            assumed.append(f"output {output!r} is a softmax: logits are the logs of its probabilities")
        least[name] = _LEAST_PROBABILITY if logs else None
        wanted[name] = around.Wanted(output, (size,), around.row_out(output, size, least[name]))
        specs.append(tensor(name, _MEANINGS[name], (size,)))
        shape = "×".join(map(str, found[output].shape[1:])) or "1"
        assumed.append(f"{name}: output {output!r}, {shape}" + (", made flat" if found[output].ndim > 2 else ""))
    sizes = {name: part.shape[0] for name, part in wanted.items()}
    if len(set(sizes.values())) > 1:
        raise UsageError(f"mean and log_variance must have as many values: {sizes['mean']}, {sizes['log_variance']}")

    def answers(feeds: Mapping[str, Array]) -> Arrays:
        given = source.run(prepare(feeds["image"]), list(outputs.values()))
        rows: Arrays = {}
        for name, part in wanted.items():
            row = given[part.output].reshape(-1, *part.shape).astype(np.float32)
            low = least[name]
            rows[name] = row if low is None else np.log(np.maximum(row, np.float32(low)))
        return rows

    before = around.image_in(layout, scaling, source.dtype, reverse=request.bgr)
    model = around.surround(source.model, before, image.hwc, wanted, found, free=source.batch)
    file = f"{request.role}.onnx"
    role = bundle_pb2.Role(
        name=request.role,
        program=bundle_pb2.PROGRAM_ONE_SHOT,
        graph=file,
        inputs=[image_tensor(image)],
        outputs=specs,
    )
    return OnnxModel(
        image,
        sizes.get("mean", 0),
        sizes.get("logits", 0),
        ForeignGraph(file, role, model, answers),
        (*assumed, *_remarks(source, outputs)),
        _origin(source),
    )


def _decoder(source: Source, request: Request, outputs: Mapping[str, str]) -> OnnxModel:
    """The role that takes latents and gives images."""
    sizes = source.sizes if request.latent is None else list(request.latent)
    if source.dtype == np.uint8:
        raise UsageError(f"input {source.input!r} is uint8, a latent must be floats")
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or not known:
        raise UsageError(f"input {source.input!r} leaves the latent's size open; say it with --latent, as in 4x32x32")
    if request.latent is not None and (
        len(known) != len(source.sizes)
        or any(have not in (None, want) for have, want in zip(source.sizes, known, strict=True))
    ):
        wanted_text = describe(source.session.get_inputs()[0])
        raise UsageError(f"--latent {'x'.join(map(str, known))} does not fit input {source.input!r}, {wanted_text}")
    (output,) = outputs.values()
    values = np.random.default_rng(0).standard_normal((_TRIED, *known)).astype(source.dtype)
    found = _tried(source, values, outputs)
    where = f"output {output!r}"
    layout = find_layout(where, found[output].shape[1:], request.layout, request.image)
    floating = np.issubdtype(found[output].dtype, np.floating)
    if not floating and found[output].dtype != np.uint8:
        raise UsageError(f"{where} is {found[output].dtype}, an image must be floats or uint8")
    scaling = _scaling(floating, request, layout, where)
    image = ImageShape(*layout.image, levels=256)

    def answers(feeds: Mapping[str, Array]) -> Arrays:
        latents = feeds["latent"].reshape(-1, *known).astype(source.dtype)
        images = layout.take(source.run(latents, [output])[output])
        images = scaling.bytes(images) if scaling else images
        return {"image": images[..., ::-1] if request.bgr else images}

    chain = around.image_out(output, layout, scaling, reverse=request.bgr)
    size = math.prod(known)
    wanted = {"image": around.Wanted(output, image.hwc, chain)}
    before = around.latent_in(known, source.dtype)
    model = around.surround(source.model, before, (size,), wanted, found, free=source.batch)
    role = bundle_pb2.Role(
        name="decode",
        program=bundle_pb2.PROGRAM_ONE_SHOT,
        graph="decode.onnx",
        inputs=[tensor("latent", bundle_pb2.MEANING_LATENT, (size,))],
        outputs=[image_tensor(image)],
    )
    assumed = (
        f"latent: input {source.input!r}, {'×'.join(map(str, known))}",
        f"image: {where}, {layout.text}, {scaling.text if scaling else 'bytes as they are'}",
        *(["channels: blue first"] if request.bgr else []),
        *_remarks(source, outputs),
    )
    return OnnxModel(image, size, 0, ForeignGraph("decode.onnx", role, model, answers), assumed, _origin(source))


def _prepared(
    images: Array, *, layout: Layout, scaling: Scale | None, dtype: np.dtype[np.generic], reverse: bool
) -> Array:
    """Images [N,H,W,C] uint8 as the file takes them, by numpy."""
    turned = images[..., ::-1] if reverse else images
    return layout.put(scaling.floats(turned) if scaling else turned).astype(dtype)


def _scaling(floating: bool, request: Request, layout: Layout, where: str) -> Scale | None:
    if request.bgr and layout.image[2] != 3:
        raise UsageError(f"--bgr is for three channels, {where} has {layout.image[2]}")
    if floating:
        return scale(request.scale, request.mean, request.std, layout.image[2])
    if request.scale or request.mean or request.std:
        raise UsageError(f"{where} is bytes: --scale, --mean and --std would change nothing")
    return None


def _outputs(source: Source, request: Request) -> dict[str, str]:
    """Which output of the file is which of the role's, by our names."""
    keys = ROLES[request.role]
    unknown = [key for key in request.outputs if key not in keys]
    if unknown:
        raise UsageError(f"--output {unknown[0]}=...: {request.role} gives {' or '.join(keys)}")
    listed = source.listed
    for key, name in request.outputs.items():
        if name not in source.outputs:
            raise UsageError(f"{source.path}: --output {key}={name}: its outputs are {listed}")
    if request.outputs:
        if len(set(request.outputs.values())) < len(request.outputs):
            raise UsageError("--output: one output of the file cannot be two things")
        if keys[0] not in request.outputs and request.role != "classify":
            raise UsageError(f"--output {keys[0]}=NAME is missing; the file's outputs are {listed}")
        if len(request.outputs) > 1 and request.role == "classify":
            raise UsageError("--output: say either logits or probabilities")
        return {key: request.outputs[key] for key in keys if key in request.outputs}
    if len(source.outputs) == 1:
        return {keys[0]: source.outputs[0]}
    by_name = {key: key for key in keys if key in source.outputs}
    if keys[0] in by_name:
        return by_name if request.role == "encode" else {keys[0]: keys[0]}
    raise UsageError(
        f"{source.path}: has {len(source.outputs)} outputs: {listed}; say which is which with --output {keys[0]}=NAME"
    )


def _tried(source: Source, values: Array, outputs: Mapping[str, str]) -> Arrays:
    """The file's answers to trial inputs. Raises ExporterError where they are no numbers, or others every time."""
    names = list(outputs.values())
    found, again = source.run(values, names), source.run(values[:1], names)
    for name in names:
        if not np.isfinite(found[name]).all():
            kind = "NaN" if np.isnan(found[name]).any() else "infinity"
            raise ExporterError(f"{source.path}: output {name!r} is {kind} for a trial input: it cannot be served")
        if not np.array_equal(found[name][:1], again[name]):
            raise ExporterError(
                f"{source.path}: output {name!r} is another every time: the file draws noise itself; "
                "take an output before the draw, such as the mean"
            )
    return found


def _check_probabilities(output: str, rows: Array) -> None:
    if rows.min() < 0 or np.abs(rows.sum(axis=1, dtype=np.float64) - 1).max() > 1e-2:
        raise UsageError(f"output {output!r} holds no probabilities of one class each: they must sum to 1")


def _remarks(source: Source, outputs: Mapping[str, str]) -> Sequence[str]:
    left = [shown(name) for name in source.outputs if name not in outputs.values()]
    more = f" and {len(left) - _MOST_TOLD} more" if len(left) > _MOST_TOLD else ""
    remarks = [f"outputs left out: {', '.join(left[:_MOST_TOLD])}{more}"] if left else []
    if source.batch is not None:
        remarks.append(f"the file's batch of {source.batch} was made free")
    return remarks


def _origin(source: Source) -> dict[str, str]:
    producer = f"{source.model.producer_name} {source.model.producer_version}".strip()
    opset = next((str(entry.version) for entry in source.model.opset_import if entry.domain in ("", "ai.onnx")), "?")
    return {
        "imported_from": source.path.name,
        "imported_sha256": digest(source.path),
        "imported_producer": producer or "unknown",
        "imported_opset": opset,
    }
