"""All that can be shown of the GPU kernel without a GPU; `make kernel-check`, about 15 minutes on two cores.

1. Random nets of every shape that a recipe can declare: the kernel, compiled by g++, paints what the model's passes
   paint, and its bytes depend neither on the block nor on the order of threads.
2. Every barrier of the source, left out in turn: whether the result shows it, with the threads in either order. Those
   that are not needed by two nets, one for each kind of draw, are named.
3. Machine code of all recipes for all targets and blocks: it spills no register, and is the same when it is made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hypothesis

import kernelnets
from ancestral_exporter.data import shape
from ancestral_exporter.kernels import nvrtc
from ancestral_exporter.kernels.compiling import repeatable
from ancestral_exporter.kernels.on_cpu import SOURCE, CpuKernel
from ancestral_exporter.kernels.packing import BLOCKS, Block, Packed
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN
from ancestral_exporter.models.values import MIXTURE
from ancestral_exporter.recipes import find, shipped
from kernelnets import Expected, Net

IMAGES = 11
# Until a kernel without a barrier, which takes two seconds otherwise, counts as one that never ends.
SECONDS = 300


def check_nets(count: int) -> int:
    """The number of random nets whose kernel paints otherwise."""
    wrong = 0

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(net=kernelnets.nets())
    def check(net: Net) -> None:
        nonlocal wrong
        found = kernelnets.expected(net, IMAGES)
        seen = set()
        for block in (Block(1, 4, 2), Block(4, 8, 4)):
            kernel = CpuKernel(found.packed, block)
            for backwards in (False, True):
                images, scores = kernel.paint(found.inputs, backwards=backwards)
                seen.add(images.tobytes() + scores.tobytes())
        pixels, error = int((images != found.images).sum()), kernelnets.worst(scores, found.log_likelihood)
        fine = pixels == 0 and error <= 1e-5 and len(seen) == 1
        wrong += not fine
        print(f"{'ok' if fine else 'WRONG':6} {pixels} pixels differ, log-likelihood off by {error:.1e}, "
              f"{'one' if len(seen) == 1 else len(seen)} set of bytes: {net}", flush=True)  # fmt: skip

    check()
    return wrong


def check_barriers(most: int | None) -> int:
    """The number of barriers that nothing shows to be needed."""
    text = SOURCE.read_text()
    options = {"channels": 16, "vertical_layers": 4, "horizontal_layers": 3, "row_dilations": (1, 2)}
    both = (options, options | {"likelihood": MIXTURE})
    nets = [kernelnets.expected(Net(ImageShape(6, 8, 2, 17), each), 8) for each in both]
    places = [match.span() for match in re.finditer(r"__syncthreads\(\);", text)][:most]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / SOURCE.name
        for begin, end in places:
            source.write_text(text[:begin] + text[end:])
            seen = any(is_wrong(found, source) for found in nets)
            missed += not seen
            line = text[:begin].count("\n") + 1
            print(f"{'noticed' if seen else 'NOT NOTICED':12} {SOURCE.name}:{line}", flush=True)
    return missed


def is_wrong(found: Expected, source: Path) -> bool:
    """Whether a kernel of that source gives other answers, or crashes: it runs in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=assert_right, args=(found, source))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    return process.exitcode != 0


def assert_right(found: Expected, source: Path) -> None:
    """Exits with 1 where the kernel gives other answers, with the threads in one order or the other."""
    kernel = CpuKernel(found.packed, Block(4, 8, 4), source)
    for backwards in (False, True):
        images, scores = kernel.paint(found.inputs, backwards=backwards)
        if (images != found.images).any() or kernelnets.worst(scores, found.log_likelihood) > 1e-5:
            sys.exit(1)


def nets_of_recipes() -> dict[str, Packed]:
    """The kernels of all recipes, untrained: weights change no instruction."""
    found = {}
    for entry in shipped():
        recipe = find(entry.name, [])
        image = shape(recipe.data)
        model = recipe.build(image).eval() if image and issubclass(recipe.model_type, GatedPixelCNN) else None
        if isinstance(model, GatedPixelCNN):
            found[entry.name] = kernelnets.packed_of(model.row_graph(), model.image)
    return found


def check_code(targets: Sequence[str], only: str | None) -> int:
    """The number of pieces of machine code that spill, or that are another when they are made again."""
    jobs = [
        (name, block, target, packed)
        for name, packed in nets_of_recipes().items()
        for block in BLOCKS
        for target in targets
        if (only is None or name == only) and packed.shared_bytes(block) <= nvrtc.shared_bytes(target)
    ]

    wrong = 0
    for name, block, target, packed in jobs:
        code, again = (nvrtc.compile_kernel(packed.config(block), target) for _ in range(2))
        same = code == again
        fine = (same or not repeatable()) and not code.spilled_bytes
        wrong += not fine
        print(f"{'ok' if fine else 'WRONG':6} {name}, {block.samples} samples, {target}: "
              f"{len(code.content)} bytes, {packed.shared_bytes(block)} bytes of shared memory, {code.report}, "
              f"{'the same' if same else 'ANOTHER'} when made again", flush=True)  # fmt: skip
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=40, help="random nets")
    parser.add_argument("--barriers", type=int, help="barriers that are left out, of all; the first ones")
    parser.add_argument("--targets", default="all", help="generations of GPUs, as of add-kernel")
    parser.add_argument("--recipe", help="this one alone")
    options = parser.parse_args(arguments)
    wrong = check_nets(options.nets) if options.nets else 0
    missed = check_barriers(options.barriers)
    spoilt = check_code(nvrtc.parse_targets(options.targets, "--targets"), options.recipe)
    print(f"{wrong} nets painted wrongly, {missed} barriers not noticed, {spoilt} pieces of code spoilt")
    return int(bool(wrong or spoilt))


if __name__ == "__main__":
    sys.exit(main())
