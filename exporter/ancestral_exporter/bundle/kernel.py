"""The kernel of a bundle's raster role: given to a fresh bundle, to one that is there already, and verified.

See `ancestral_exporter.kernels` for what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.compare import Tolerance, difference
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.errors import ExporterError
from ancestral_exporter.kernels.form import FOLDER, make_form, packed_net
from ancestral_exporter.kernels.on_cpu import SOURCE, CpuKernel, NoCompiler
from ancestral_exporter.kernels.packing import BLOCKS, Packed
from ancestral_exporter.kernels.reading import NotCovered

# Which kernel a bundle has: a key of its provenance.
_SOURCE = "kernel_source"
# Multiply-adds of the images that a verification has the CPU's build paint; one image it paints at any rate. About 20 s
# on one core, as measured with mnist-pixelcnn (0.47 billion an image).
_MOST_MULTIPLY_ADDS = 5e9


def give_kernel(folder: Path, manifest: bundle_pb2.Bundle, targets: Sequence[str]) -> list[str]:
    """Write the kernel of the graphs in a folder beside them, and into the manifest's roles; files it leaves alone.

    Returns what the kernel lacks, a line each. Raises NotCovered where there is none for such a bundle, NoNvrtc.
    """
    role = _raster_role(manifest)
    graph = onnx.load(folder / role.graph)
    form = make_form(graph, role, manifest.image, targets)
    (folder / FOLDER).mkdir(exist_ok=True)
    for path, content in form.files.items():
        (folder / path).write_bytes(content)
    role.kernel.CopyFrom(form.kernel)
    manifest.provenance[_SOURCE] = _digest(packed_net(graph, role, manifest.image))
    return form.remarks


def give_or_say(targets: Sequence[str], say: Callable[[str], None], folder: Path, manifest: bundle_pb2.Bundle) -> None:
    """`give_kernel` where there are targets; what the bundle gets no kernel for is said, and is no error."""
    if not targets:
        return
    say("compiling the kernel")
    try:
        for remark in give_kernel(folder, manifest, targets):
            say(remark)
    except ExporterError as error:  # a bundle without a kernel is worth more than none
        say(f"the bundle gets no kernel: {error}")


def take_kernel(manifest: bundle_pb2.Bundle) -> None:
    """Strike the kernels out of a manifest, and their files."""
    kernels = [role.kernel for role in manifest.roles if role.HasField("kernel")]
    theirs = {path for kernel in kernels for path in (kernel.weights, *(variant.code for variant in kernel.variants))}
    kept = [file for file in manifest.files if file.path not in theirs]
    del manifest.files[:]
    manifest.files.extend(kept)
    for role in manifest.roles:
        role.ClearField("kernel")
    manifest.provenance.pop(_SOURCE, None)


def check_kernel(
    report: VerifyReport,
    path: Path,
    manifest: bundle_pb2.Bundle,
    role: bundle_pb2.Role,
    feeds: Mapping[str, Array],
    wanted: Mapping[str, Array],
) -> None:
    """That a role's kernel has the weights of its graph, and that the kernel's source, compiled for the CPU, gives the
    recorded answers with them. The machine code itself can only run on a GPU: the server proves it there.
    """
    subject = f"{role.kernel.weights} {role.name}"
    try:
        packed = packed_net(onnx.load(path / role.graph), role, manifest.image)
    except NotCovered as error:
        report.add(subject, True, f"not run: {error}")
        return
    if manifest.provenance.get(_SOURCE) != _digest(packed):
        what = "the kernel is another version's; `ancestral-exporter add-kernel` makes one anew"
        report.add(subject, True, f"not run: {what}")
        return
    same = (path / role.kernel.weights).read_bytes() == packed.content and role.kernel.state_bytes == packed.state_bytes
    if not report.add(subject, same, f"{'has' if same else 'has not'} the weights of {role.graph}"):
        return
    inputs = [feeds[spec.name] for spec in role.inputs]
    count = max(1, min(len(inputs[0]), int(_MOST_MULTIPLY_ADDS / packed.multiply_adds)))
    block = max((each for each in BLOCKS if each.samples <= count), key=lambda each: each.samples)
    try:
        kernel = CpuKernel(packed, block)
    except NoCompiler as error:
        report.add(f"kernel {role.name}", True, f"not run: {error}")
        return
    answers = kernel.paint([array[:count] for array in inputs])
    tolerance = Tolerance(manifest.golden.tolerance, manifest.golden.pixel_tolerance)
    for spec, answer in zip(role.outputs, answers, strict=True):
        name = f"kernel {role.name} on the CPU, recorded, batch {count}, {spec.name}"
        report.add(name, *difference(answer, wanted[spec.name][:count], tolerance))


def _raster_role(manifest: bundle_pb2.Bundle) -> bundle_pb2.Role:
    for role in manifest.roles:
        if role.program == bundle_pb2.PROGRAM_RASTER:
            return role
    raise NotCovered("no role paints row by row, which is all that a kernel does")


def _digest(packed: Packed) -> str:
    """Of what the machine code of one sample a block is compiled from."""
    return hashlib.sha256(SOURCE.read_bytes() + packed.config(BLOCKS[0]).encode()).hexdigest()
