"""The kernel of a raster role: its files, and the entry of the manifest that tells how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.kernels import nvrtc
from ancestral_exporter.kernels.packing import BLOCKS, THREADS, Block, Packed, pack
from ancestral_exporter.kernels.reading import NotCovered, read_net
from ancestral_exporter.models.base import ImageShape

CONVENTION = 1
# The files of a bundle that its kernel needs.
FOLDER = "kernel"
WEIGHTS = f"{FOLDER}/weights.f32"


@dataclass(frozen=True)
class Form:
    """A kernel and its files, by their paths in the bundle. `remarks`: what it lacks, a line each."""

    kernel: bundle_pb2.Kernel
    files: dict[str, bytes]
    remarks: list[str]


def packed_net(graph: onnx.ModelProto, role: bundle_pb2.Role, image: bundle_pb2.ImageSpec) -> Packed:
    """The net of a role's graph, packed. Raises NotCovered."""
    shape = ImageShape(image.height, image.width, image.channels, image.levels)
    return pack(shape, read_net(graph, role, shape))


def make_form(
    graph: onnx.ModelProto, role: bundle_pb2.Role, image: bundle_pb2.ImageSpec, targets: Sequence[str]
) -> Form:
    """Compile the kernel of a raster role for all targets and numbers of samples. Raises NotCovered, NoNvrtc.

    A number of samples that has no room in a target's shared memory is left out; a target without any is remarked on.
    """
    nvrtc.check_compiler()
    packed = packed_net(graph, role, image)
    fitting = {target: [block for block in BLOCKS if _fits(packed, block, target)] for target in targets}
    least = packed.shared_bytes(BLOCKS[0])
    lacking = {target: nvrtc.shared_bytes(target) for target, blocks in fitting.items() if not blocks}
    remarks = [
        f"no kernel for {target}: a row of {packed.image.width} pixels of {packed.channels} channels needs {least} "
        f"bytes of shared memory, a block has {most}"
        for target, most in lacking.items()
    ]
    if len(lacking) == len(targets):
        raise NotCovered("; ".join(remarks))
    jobs = [(target, block) for target, blocks in fitting.items() for block in blocks]
    codes = [nvrtc.compile_kernel(packed.config(block), target) for target, block in jobs]
    files = {WEIGHTS: packed.content}
    variants = []
    for (target, block), code in zip(jobs, codes, strict=True):
        path = f"{FOLDER}/{nvrtc.ENTRY}-{block.samples}.{target}.{'cubin' if target.startswith('sm') else 'ptx'}"
        files[path] = code.content
        variants.append(
            bundle_pb2.KernelVariant(
                code=path,
                target=target,
                entry=nvrtc.ENTRY,
                samples=block.samples,
                threads=THREADS,
                shared_bytes=packed.shared_bytes(block),
                scratch_bytes=packed.scratch_bytes(block),
            )
        )
    kernel = bundle_pb2.Kernel(
        convention=CONVENTION, weights=WEIGHTS, state_bytes=packed.state_bytes, variants=variants
    )
    return Form(kernel, files, remarks)


def _fits(packed: Packed, block: Block, target: str) -> bool:
    return packed.shared_bytes(block) <= nvrtc.shared_bytes(target)
