"""The kernel's source, compiled by g++, paints what the model's passes paint; and its bytes depend on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import kernelnets
from ancestral_exporter.kernels import on_cpu
from ancestral_exporter.kernels.on_cpu import CpuKernel, NoCompiler
from ancestral_exporter.kernels.packing import BLOCKS, Block
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.values import MIXTURE
from kernelnets import Expected, Net

# Blocks of one, of some and of many samples; for images of a few columns.
ONE, SOME, MANY = Block(1, 4, 2), Block(2, 8, 4), Block(8, 8, 4)
# A kernel takes seconds to compile, so each net has as many peculiarities as go together.
NETS = {
    "dilated bits with labels": Net(
        ImageShape(9, 7, 1, 2),
        {
            "channels": 24, "vertical_layers": 4, "horizontal_layers": 3, "row_dilations": (2, 4, 1),
            "column_dilations": (2, 5), "label_count": 3,
        },
    ),
    "colour, one-hot, wide windows": Net(
        ImageShape(5, 6, 3, 17),
        {
            "channels": 20, "vertical_layers": 2, "horizontal_layers": 2, "one_hot": True, "first_window": (3, 5),
            "first_pixels": 4, "head_channels": 40,
        },
    ),
    "wider than 64, 256 levels": Net(
        ImageShape(4, 5, 1, 256), {"channels": 72, "vertical_layers": 3, "horizontal_layers": 2, "head_channels": 80}
    ),
    "a mixture in colour": Net(
        ImageShape(4, 3, 3, 200),
        {"channels": 16, "vertical_layers": 3, "horizontal_layers": 1, "likelihood": MIXTURE, "label_count": 2},
    ),
}  # fmt: skip
IMAGES = 11


def check(found: Expected, kernel: CpuKernel) -> bytes:
    """What the kernel paints, after it was held against what is expected."""
    images, scores = kernel.paint(found.inputs)
    assert (images != found.images).sum() == 0
    assert kernelnets.worst(scores, found.log_likelihood) <= 1e-5
    return images.tobytes() + scores.tobytes()


@pytest.mark.parametrize("name", NETS)
def test_it_paints_what_passes_paint_and_its_bytes_are_those_of_any_block(name: str) -> None:
    found = kernelnets.expected(NETS[name], IMAGES)
    one, many = (CpuKernel(found.packed, block) for block in (ONE, MANY))
    painted = check(found, many)
    assert check(found, one) == painted
    random = np.random.default_rng(0)
    for backwards in (True, False):
        # In other slots, and so in other company; the threads in the other order.
        images, scores = many.paint(found.inputs, slots=random.permutation(IMAGES), backwards=backwards)
        assert images.tobytes() + scores.tobytes() == painted


@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(net=kernelnets.nets())
def test_random_nets_of_every_declared_shape(net: Net) -> None:
    """`make kernel-check` tries as many as one likes."""
    found = kernelnets.expected(net, IMAGES)
    check(found, CpuKernel(found.packed, SOME))


def test_samples_at_different_rows_share_launches() -> None:
    """Each begins a launch after the one before, in a slot that another sample was painted in before."""
    found = kernelnets.expected(NETS["dilated bits with labels"], IMAGES)
    kernel, height = CpuKernel(found.packed, SOME), found.images.shape[1]
    slots = 4
    states, scratch = kernel.states(slots), kernel.scratch(slots)
    fed = [np.zeros((slots, *array.shape[1:]), array.dtype) for array in found.inputs]
    images, scores = np.zeros((slots, *found.images.shape[1:]), np.uint8), np.zeros(slots, np.float32)
    rows: dict[int, int] = {}  # by slot
    samples: dict[int, int] = {}
    waiting, totals = list(range(IMAGES)), np.zeros(IMAGES, np.float32)
    while waiting or rows:
        free = [slot for slot in range(slots) if slot not in rows]
        if waiting and free:
            slot, sample = free[-1], waiting.pop(0)
            rows[slot], samples[slot] = 0, sample
            for array, whole in zip(fed, found.inputs, strict=True):
                array[slot] = whole[sample]
        entries = np.array([(slot, rows[slot]) for slot in sorted(rows, reverse=True)], np.int32)
        kernel.launch([found.packed.weights, states, scratch, *fed, images, scores], entries)
        for slot in list(rows):
            totals[samples[slot]] += scores[slot]
            rows[slot] += 1
            if rows[slot] == height:
                np.testing.assert_array_equal(images[slot], found.images[samples[slot]])
                del rows[slot]
    assert kernelnets.worst(totals, found.log_likelihood) <= 1e-5


def test_the_blocks_of_bundles_have_room_for_the_recipes() -> None:
    """The kernel says the same of itself, or it would not compile."""
    packed = kernelnets.packed_of(Net(ImageShape(28, 28, 1, 2), {}).model().row_graph(), ImageShape(28, 28, 1, 2))
    assert [packed.shared_bytes(block) <= 227 * 1024 for block in BLOCKS] == [True] * 4


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match=r"^no g\+\+ here$"):
        on_cpu.build("", tmp_path / "kernel.so")


def test_what_does_not_compile_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(NoCompiler, match=r"^g\+\+ does not compile the kernel: .*error: ") as refused:
        on_cpu.build("#error no sizes\n", tmp_path / "kernel.so")
    assert "\n" not in str(refused.value)
