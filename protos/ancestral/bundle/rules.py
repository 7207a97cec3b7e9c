"""What every manifest keeps to: the exporter verifies it, and the server refuses what does not. The comments of
bundle.proto say the same. Every problem is a line that names the field, its value and the limit.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from ancestral.bundle.dtypes import DTYPES
from ancestral.text import short
from ancestral.v1 import bundle_pb2, tensor_pb2

# The newest schema there is; see `least_schema`.
SCHEMA = 2
# A manifest is part of every reply that describes its model, and of one that lists all models. The largest of ours has
# 12 KiB.
MAX_MANIFEST_BYTES = 2**20
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Characters of what is shown in a table or is a label of metrics, of the description, and of the rest.
MAX_LABEL, MAX_DESCRIPTION, MAX_TEXT = 128, 4096, 16384
# Of a path, and of what stands between its slashes, in bytes: file systems take no more of the latter.
MAX_PATH, MAX_FILE_NAME_BYTES = 1024, 255
MAX_ROLES, MAX_STATES, MAX_FILES, MAX_METRICS, MAX_PROVENANCE = 64, 1024, 4096, 1024, 256
MAX_AXES = 8
# Of one image, or of one row of any tensor: no message of gRPC could hold more.
MAX_ROW_BYTES = 2**30
MAX_LABELS = 10**6
# Names of classes are part of every reply of Classify and of every description of the model.
MAX_CLASSES = 4096
MAX_VERSION = 2**63 - 1
# Latents whose moments are recorded: they are part of the manifest, some 20 bytes each.
MAX_MOMENTS = 4096
# Of machine code for GPUs: numbers of samples times generations of GPUs, and what hardware has at most, with room.
MAX_VARIANTS = 256
MAX_BLOCK_SAMPLES, MAX_BLOCK_THREADS, WARP = 1024, 1024, 32
MAX_SHARED_BYTES, MAX_SCRATCH_BYTES = 2**20, 2**40
# Of the addresses that wide loads and stores of a GPU take.
KERNEL_ALIGNMENT = 16
# A cubin of one generation of GPUs, or PTX for one and all later ones.
TARGET = re.compile(r"(sm|compute)_[1-9][0-9]{1,2}")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

_LATENTS = (bundle_pb2.MEANING_LATENT, bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LOG_VARIANCE)
# Meanings that readers of schema 1 do not know.
_SINCE_SCHEMA_2 = (
    bundle_pb2.MEANING_LOG_WEIGHT,
    bundle_pb2.MEANING_PIXEL_MEAN,
    bundle_pb2.MEANING_PIXEL_VARIANCE,
)
# What has text run from right to left, in which a name could hide another: embeddings, overrides and isolates.
_BIDIRECTIONAL = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
# Control characters, line and paragraph separators, halves of surrogate pairs.
_UNPRINTABLE = frozenset(("Cc", "Zl", "Zp", "Cs"))


def rows_back(state: bundle_pb2.StateSpec) -> int:
    """How many rows back a state is read."""
    return state.rows_back if state.HasField("rows_back") else 1


# Units of float outputs that are not of the order of 1.
_UNITS = {bundle_pb2.MEANING_PIXEL_MEAN: 255.0, bundle_pb2.MEANING_PIXEL_VARIANCE: 255.0**2}


def unit(meaning: bundle_pb2.Meaning.ValueType) -> float:
    """By which differences of an output are judged: |a - b| <= golden.tolerance (unit + |b|)."""
    return _UNITS.get(meaning, 1.0)


def roundings(meaning: bundle_pb2.Meaning.ValueType) -> int:
    """Of an output's values, how many may differ by a rounding even where golden.pixel_tolerance is less than one.

    A byte of an image lies at a threshold in small batches as in large ones. Of rows `ties` tells which values do.
    """
    return 1 if meaning == bundle_pb2.MEANING_IMAGE else 0


def least_schema(manifest: bundle_pb2.Bundle) -> int:
    """The oldest schema that has all that a manifest uses: a server that knows it reads the manifest rightly."""
    return 1 if next(_newer_than_schema_1(manifest), None) is None else 2


def _newer_than_schema_1(manifest: bundle_pb2.Bundle) -> Iterator[str]:
    """What a manifest uses that schema 1 does not have."""
    for role in manifest.roles:
        if any(rows_back(state) > 1 for state in role.states):
            yield "a state with rows_back above 1"
        for tensor in role.outputs:
            if tensor.meaning in _SINCE_SCHEMA_2:
                yield bundle_pb2.Meaning.Name(tensor.meaning)


def problems(manifest: bundle_pb2.Bundle) -> Iterator[str]:
    """Whatever is wrong with a manifest in itself."""
    found = list(limits(manifest))
    yield from found or contradictions(manifest)


def limits(manifest: bundle_pb2.Bundle) -> Iterator[str]:
    """Fields outside of their limits: of what is within, everything may be shown and held in memory."""
    if not NAME.fullmatch(manifest.name):
        yield f"name {_shown(manifest.name)} does not match {NAME.pattern}"
    yield from _whole("version", manifest.version, 1, MAX_VERSION)
    yield from _text("family", manifest.family, MAX_LABEL)
    yield from _text("description", manifest.description, MAX_DESCRIPTION, lines=True)
    image = manifest.image
    for name, size in (("height", image.height), ("width", image.width), ("channels", image.channels)):
        yield from _whole(f"image.{name}", size, 1, MAX_ROW_BYTES)
    yield from _row("image", tensor_pb2.DATA_TYPE_UINT8, (image.height, image.width, image.channels))
    yield from _whole("image.levels", image.levels, 2, 256)
    yield from _whole("latent_size", manifest.latent_size, 0, MAX_ROW_BYTES // 4)
    yield from _whole("label_count", manifest.label_count, 0, MAX_LABELS)
    yield from class_name_problems(manifest.class_names)
    yield from _many("roles", manifest.roles, MAX_ROLES)
    for i, role in enumerate(manifest.roles):
        yield from _role_limits(f"roles[{i}]", role, image.height)
    yield from _many("files", manifest.files, MAX_FILES)
    for i, file in enumerate(manifest.files):
        yield from _path(f"files[{i}].path", file.path)
        if not _SHA256.fullmatch(file.sha256):
            yield f"files[{i}].sha256 {_shown(file.sha256)} is not 64 lower-case hexadecimal digits"
        yield from _whole(f"files[{i}].size_bytes", file.size_bytes, 0, MAX_VERSION)
    yield from _text("golden.path", manifest.golden.path, MAX_PATH)
    # Bounds that let everything pass verify nothing.
    yield from _number("golden.tolerance", manifest.golden.tolerance, 0, math.inf)
    yield from _number("golden.pixel_tolerance", manifest.golden.pixel_tolerance, 0, 1)
    yield from _many("metrics", manifest.metrics, MAX_METRICS)
    for i, metric in enumerate(manifest.metrics):
        for name, text in (("name", metric.name), ("unit", metric.unit), ("split", metric.split)):
            yield from _text(f"metrics[{i}].{name}", text, MAX_LABEL)
        yield from _number(f"metrics[{i}].value", metric.value, -math.inf, math.inf)
    if manifest.HasField("training_moments"):
        yield from _moment_limits(manifest.training_moments)
    yield from _many("provenance", manifest.provenance, MAX_PROVENANCE)
    for key in sorted(manifest.provenance):
        yield from _text("a key of provenance", key, MAX_LABEL)
        yield from _text(f"provenance[{_shown(key)}]", manifest.provenance[key], MAX_TEXT, lines=True)


def _moment_limits(moments: bundle_pb2.TrainingMoments) -> Iterator[str]:
    where = "training_moments"
    yield from _whole(f"{where}.images", moments.images, 1, MAX_VERSION)
    if not 0 <= moments.intensity_mean <= 1:
        yield f"{where}.intensity_mean is {moments.intensity_mean}, must be 0 to 1"
    yield from _number(f"{where}.intensity_std", moments.intensity_std, 0, math.inf)
    for name, values, least in (
        ("latent_mean", moments.latent_mean, -math.inf),
        ("latent_std", moments.latent_std, 0.0),
    ):
        yield from _many(f"{where}.{name}", values, MAX_MOMENTS)
        for i, value in enumerate(values[:MAX_MOMENTS]):
            yield from _number(f"{where}.{name}[{i}]", value, least, math.inf)


def _role_limits(where: str, role: bundle_pb2.Role, height: int) -> Iterator[str]:
    """height: H of the images."""
    yield from _text(f"{where}.name", role.name, MAX_LABEL, empty=False)
    yield from _text(f"{where}.graph", role.graph, MAX_PATH)
    if role.program not in (bundle_pb2.PROGRAM_ONE_SHOT, bundle_pb2.PROGRAM_RASTER):
        yield f"{where}.program {role.program} is unknown"
    known = bundle_pb2.Meaning.values()
    for side, tensors in (("inputs", role.inputs), ("outputs", role.outputs)):
        yield from _many(f"{where}.{side}", tensors, len(known))
        for i, tensor in enumerate(tensors):
            yield from _text(f"{where}.{side}[{i}].name", tensor.name, MAX_LABEL, empty=False)
            if tensor.meaning not in known or tensor.meaning == bundle_pb2.MEANING_UNSPECIFIED:
                yield f"{where}.{side}[{i}].meaning {tensor.meaning} is unknown"
            yield from _row(f"{where}.{side}[{i}]", tensor.dtype, tensor.shape)
    yield from _many(f"{where}.states", role.states, MAX_STATES)
    for i, state in enumerate(role.states):
        yield from _text(f"{where}.states[{i}].input", state.input, MAX_LABEL, empty=False)
        yield from _text(f"{where}.states[{i}].output", state.output, MAX_LABEL, empty=False)
        back = rows_back(state)
        # What lies farther up than the top row would be read by no row.
        yield from _whole(f"{where}.states[{i}].rows_back", back, 1, max(1, height - 1))
        yield from _row(f"{where}.states[{i}]", tensor_pb2.DATA_TYPE_FLOAT32, state.shape, rows=max(1, back))
    if role.HasField("kernel"):
        yield from _kernel_limits(f"{where}.kernel", role.kernel)


def _kernel_limits(where: str, kernel: bundle_pb2.Kernel) -> Iterator[str]:
    # A convention that is not known here is no fault: the graph serves.
    yield from _whole(f"{where}.convention", kernel.convention, 1, 2**31 - 1)
    yield from _text(f"{where}.weights", kernel.weights, MAX_PATH)
    yield from _aligned(f"{where}.state_bytes", kernel.state_bytes, MAX_ROW_BYTES)
    yield from _many(f"{where}.variants", kernel.variants, MAX_VARIANTS)
    for i, variant in enumerate(kernel.variants):
        at = f"{where}.variants[{i}]"
        yield from _text(f"{at}.code", variant.code, MAX_PATH)
        if not TARGET.fullmatch(variant.target):
            yield f"{at}.target {_shown(variant.target)} does not match {TARGET.pattern}"
        if not _C_IDENTIFIER.fullmatch(variant.entry):
            yield f"{at}.entry {_shown(variant.entry)} does not match {_C_IDENTIFIER.pattern}"
        yield from _whole(f"{at}.samples", variant.samples, 1, MAX_BLOCK_SAMPLES)
        yield from _whole(f"{at}.threads", variant.threads, WARP, MAX_BLOCK_THREADS)
        if variant.threads % WARP:
            yield f"{at}.threads is {variant.threads}, must be a multiple of {WARP}"
        yield from _whole(f"{at}.shared_bytes", variant.shared_bytes, 0, MAX_SHARED_BYTES)
        yield from _aligned(f"{at}.scratch_bytes", variant.scratch_bytes, MAX_SCRATCH_BYTES)


def contradictions(manifest: bundle_pb2.Bundle) -> Iterator[str]:
    """Fields that are within their limits, and do not fit each other."""
    if manifest.schema < 2 and (newer := next(_newer_than_schema_1(manifest), None)) is not None:
        yield f"schema is {manifest.schema}, and {newer} needs schema 2"
    files = {file.path for file in manifest.files}
    if manifest.golden.path not in files:
        yield f"golden data {manifest.golden.path!r} is not among its files"
    if not manifest.roles:
        yield "has no roles"
    names: set[str] = set()
    for role in manifest.roles:
        if role.name in names:
            yield f"role {role.name!r} is there twice"
        names.add(role.name)
        if role.program == bundle_pb2.PROGRAM_RASTER and role.name != "sample":
            yield f"role {role.name}: only sample can be a raster program"
        if role.states and role.program != bundle_pb2.PROGRAM_RASTER:
            yield f"role {role.name}: only a raster program has states, it has {len(role.states)}"
        if role.graph not in files:
            yield f"role {role.name}: graph {role.graph!r} is not among its files"
        for side in (role.inputs, role.outputs):
            meanings = [tensor.meaning for tensor in side]
            if len(set(meanings)) != len(meanings):
                yield f"role {role.name}: tensors must have one meaning each, each once"
            for tensor in side:
                yield from _meaning_problems(manifest, role, tensor)
        yield from _likelihood_problems(role)
        if role.HasField("kernel"):
            yield from _kernel_problems(role, files)
    takes_labels = any(t.meaning == bundle_pb2.MEANING_LABEL for role in manifest.roles for t in role.inputs)
    if takes_labels and not manifest.label_count:
        yield "label_count is 0, and a role takes a label"
    if manifest.label_count and not takes_labels:
        yield f"label_count is {manifest.label_count}, and no role takes a label"
    yield from _class_problems(manifest)
    latents = [len(values) for values in (manifest.training_moments.latent_mean, manifest.training_moments.latent_std)]
    if any(latents) and latents != [manifest.latent_size] * 2:
        yield (
            f"training_moments has {latents[0]} entries of latent_mean and {latents[1]} of latent_std, must have none, "
            f"or {manifest.latent_size} (latent_size) of each"
        )


def class_name_problems(names: Sequence[str]) -> Iterator[str]:
    """What a manifest's class_names may not be: too many, empty, too long, or with control characters."""
    yield from _many("class_names", names, MAX_CLASSES)
    for i, name in enumerate(names):
        yield from _text(f"class_names[{i}]", name, MAX_LABEL, empty=False)


def _class_problems(manifest: bundle_pb2.Bundle) -> Iterator[str]:
    """Names must be as many as the classes that labels and logits know."""
    counts = {"label_count": manifest.label_count} if manifest.label_count else {}
    for role in manifest.roles:
        for tensor in role.outputs:
            if tensor.meaning == bundle_pb2.MEANING_LOGITS:
                if len(tensor.shape) != 1 or tensor.dtype != tensor_pb2.DATA_TYPE_FLOAT32:
                    of = _tensor(tensor.dtype, tensor.shape)
                    yield f"role {role.name}: MEANING_LOGITS must be float32 [B,K], tensor {tensor.name!r} is {of}"
                    return
                counts[f"role {role.name}"] = tensor.shape[0]
    if len(set(counts.values())) > 1:
        yield f"numbers of classes differ: {', '.join(f'{what} {count}' for what, count in counts.items())}"
    named = len(manifest.class_names)
    for what, count in counts.items():
        if named and named != count:
            yield f"class_names has {named} entries, {what} knows {count} classes"


def _likelihood_problems(role: bundle_pb2.Role) -> Iterator[str]:
    """Outputs that mean nothing without another tensor."""
    inputs, outputs = ({tensor.meaning for tensor in side} for side in (role.inputs, role.outputs))
    bound = role.likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND
    if bundle_pb2.MEANING_LOG_WEIGHT in outputs and not (bound and bundle_pb2.MEANING_UNIFORMS in inputs):
        yield (
            f"role {role.name}: gives MEANING_LOG_WEIGHT, so it must take MEANING_UNIFORMS, and its likelihood be "
            "LIKELIHOOD_LOWER_BOUND"
        )
    if (bundle_pb2.MEANING_PIXEL_MEAN in outputs) != (bundle_pb2.MEANING_PIXEL_VARIANCE in outputs):
        yield f"role {role.name}: MEANING_PIXEL_MEAN and MEANING_PIXEL_VARIANCE come together"


def _kernel_problems(role: bundle_pb2.Role, files: Collection[str]) -> Iterator[str]:
    """What a kernel cannot do for its role, and files that are not there."""
    where, kernel = f"role {role.name}: kernel", role.kernel
    if role.program != bundle_pb2.PROGRAM_RASTER:
        yield f"{where}: only a raster program has one"
    for path in (kernel.weights, *(variant.code for variant in kernel.variants)):
        if path not in files:
            yield f"{where}: {path!r} is not among its files"
    if not kernel.variants:
        yield f"{where}: has no variants"
    for (target, samples), count in Counter((each.target, each.samples) for each in kernel.variants).items():
        if count > 1:
            yield f"{where}: the variant of {samples} samples for {target} is there {count} times"


def _meaning_problems(
    manifest: bundle_pb2.Bundle, role: bundle_pb2.Role, tensor: bundle_pb2.TensorSpec
) -> Iterator[str]:
    """A tensor of another type or shape than its meaning has."""
    byte, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_FLOAT32
    image = manifest.image
    row = (image.width, image.channels)
    fixed: dict[int, tuple[int, tuple[int, ...]]] = {
        bundle_pb2.MEANING_IMAGE: (byte, (image.height, *row)),
        bundle_pb2.MEANING_TEMPERATURE: (real, ()),
        bundle_pb2.MEANING_LABEL: (tensor_pb2.DATA_TYPE_INT64, ()),
        bundle_pb2.MEANING_LOG_LIKELIHOOD: (real, ()),
        bundle_pb2.MEANING_LOG_WEIGHT: (real, ()),
        bundle_pb2.MEANING_PIXEL_MEAN: (real, (image.height, *row)),
        bundle_pb2.MEANING_PIXEL_VARIANCE: (real, (image.height, *row)),
        bundle_pb2.MEANING_GIVEN: (byte, row),
        bundle_pb2.MEANING_KNOWN: (tensor_pb2.DATA_TYPE_BOOL, row),
        bundle_pb2.MEANING_ROW: (byte, row),
        **dict.fromkeys(_LATENTS, (real, (manifest.latent_size,))),
    }
    dtype, shape = fixed.get(tensor.meaning, (tensor.dtype, tuple(tensor.shape)))
    if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
        of = f" (latent_size {manifest.latent_size})" if tensor.meaning in _LATENTS else ""
        yield (
            f"role {role.name}: {bundle_pb2.Meaning.Name(tensor.meaning)} must be {_tensor(dtype, shape)}{of}, "
            f"tensor {tensor.name!r} is {_tensor(tensor.dtype, tensor.shape)}"
        )


def _tensor(dtype: int, shape: Iterable[int]) -> str:
    # By number, since names belong to a type that only the generated code has.
    return f"{tensor_pb2.DataType.DESCRIPTOR.values_by_number[dtype].name} [B]+{list(shape)}"


def _many(field: str, entries: Sequence[object] | Iterable[object], most: int) -> Iterator[str]:
    count = sum(1 for _ in entries)
    if count > most:
        yield f"{field} has {count} entries, must have at most {most}"


def _whole(field: str, value: int, least: int, most: int) -> Iterator[str]:
    if not least <= value <= most:
        yield f"{field} is {value}, must be {least} to {most}"


def _aligned(field: str, value: int, most: int) -> Iterator[str]:
    """Of the bytes of what stands side by side in the memory of a GPU."""
    yield from _whole(field, value, 0, most)
    if value % KERNEL_ALIGNMENT:
        yield f"{field} is {value}, must be a multiple of {KERNEL_ALIGNMENT}"


def _number(field: str, value: float, least: float, below: float) -> Iterator[str]:
    # Written so that NaN fails.
    if not (least <= value < below and math.isfinite(value)):
        bounds = "" if math.isinf(least) else f" and at least {least:g}"
        bounds += "" if math.isinf(below) else f" and below {below:g}"
        yield f"{field} is {value}, must be finite{bounds}"


def _row(field: str, dtype: int, shape: Sequence[int], rows: int = 1) -> Iterator[str]:
    """Of one row of a tensor. rows: so many of them are kept at a time."""
    if dtype not in DTYPES:
        yield f"{field}.dtype {dtype} is unknown"
        return
    if len(shape) > MAX_AXES:
        yield f"{field}.shape has {len(shape)} axes, must have at most {MAX_AXES}"
    elif any(axis < 1 for axis in shape):
        yield f"{field}.shape is {list(shape)}, each must be at least 1"
    elif (size := rows * math.prod(shape) * DTYPES[dtype].itemsize) > MAX_ROW_BYTES:
        what = f"{list(shape)}, of {rows} rows," if rows > 1 else f"{list(shape)}"
        yield f"{field}.shape {what} makes {size} bytes, must make at most {MAX_ROW_BYTES}"


def _text(field: str, text: str, most: int, *, empty: bool = True, lines: bool = False) -> Iterator[str]:
    """lines: it may have line breaks and tabs."""
    if not text and not empty:
        yield f"{field} is empty"
    if len(text) > most:
        yield f"{field} has {len(text)} characters, must have at most {most}"
        return
    for character in text:
        bad = unicodedata.category(character) in _UNPRINTABLE or unicodedata.bidirectional(character) in _BIDIRECTIONAL
        if bad and not (lines and character in "\r\n\t"):
            yield f"{field} {_shown(text)} holds U+{ord(character):04X}, must hold no control characters"
            return


def _path(field: str, path: str) -> Iterator[str]:
    """Of a file of the bundle."""
    yield from _text(field, path, MAX_PATH, empty=False)
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        yield f"{field} {_shown(path)} leads out of the bundle"
    if any(len(part.encode(errors="replace")) > MAX_FILE_NAME_BYTES for part in pure.parts):
        yield f"{field} {_shown(path)} has a name of more than {MAX_FILE_NAME_BYTES} bytes"


def _shown(text: str) -> str:
    """The beginning of a text, for a message."""
    return ascii(short(text))
