"""Muon: what is orthogonal, which parameters it moves, and that a training by it is resumed bit by bit."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.optimiser import Muon, matrices_of, orthogonal
from ancestral_exporter.recipes import find


@pytest.mark.parametrize("shape", [(2, 8, 24), (3, 24, 8), (1, 16, 20)])
def test_singular_values_become_alike_and_directions_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape) @ torch.diag(torch.logspace(-0.5, 0.5, shape[2]))
    moved = orthogonal(matrices)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ moved @ right.mT
    assert torch.allclose(turned, torch.diag_embed(torch.diagonal(turned, dim1=1, dim2=2)), atol=1e-3)


def test_no_gradient_is_no_move() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_what_counts_as_a_matrix() -> None:
    """Of a PixelCNN: all windows and projections, but not the first windows, the last layer and the classes."""
    model = find("mnist-pixelcnn-conditional", ["model.label_count=40"]).build(ImageShape(28, 28, 1, 2))
    matrices = {id(parameter) for parameter in matrices_of(model)}
    others = {name for name, parameter in model.named_parameters() if id(parameter) not in matrices}
    many_axes = {name for name in others if dict(model.named_parameters())[name].ndim > 1}
    first = {"vertical.0.window.weight", "horizontal.0.window.weight"}
    assert many_axes == first | {"head.logits.0.weight"} | {name for name in many_axes if name.endswith("label.weight")}


def test_what_has_the_shape_of_a_matrix_and_is_none() -> None:
    """Of a VAE: the bias of each pixel, and the last layer, which torch holds with its 32 inputs in front."""
    model = find("mnist-vae").build(ImageShape(28, 28, 1, 2))
    matrices = {id(parameter) for parameter in matrices_of(model)}
    many_axes = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    others = {name for name, parameter in many_axes.items() if id(parameter) not in matrices}
    assert others == {"encoder.convolutions.0.weight", "decoder.bias", "decoder.convolutions.10.weight"}


def test_weights_shared_with_an_embedding_are_no_matrix_and_those_of_two_layers_are_one() -> None:
    embedding, shared, twin, own = nn.Embedding(32, 16), nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(16, 32)
    shared.weight, twin.weight = embedding.weight, own.weight
    model = nn.ModuleList([embedding, shared, twin, own])
    assert [id(matrix) for matrix in matrices_of(model)] == [id(own.weight)]


class Net(nn.Module):
    """Two convolutions that are matrices enough, and a last layer that is not; always of the same weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.second(torch.relu(self.first(images))).flatten(1)))


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        images = torch.randn(8, 16, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        model(images).square().mean().backward()
        optimiser.step()


def test_a_step_by_hand() -> None:
    """A convolution's move is its gradient's orthogonal matrix times the rate, after the weights' decay."""
    model = Net()
    optimiser = Muon(model, 0.1, lr=1e-3, weight_decay=0.5)
    before = model.first.weight.detach().clone()
    model(torch.ones(2, 16, 5, 5)).square().mean().backward()
    gradient = cast(Tensor, model.first.weight.grad).clone()
    optimiser.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * orthogonal(gradient.flatten(1)[None])[0].view_as(before)
    assert torch.allclose(model.first.weight, expected, atol=1e-5)


def test_the_rest_is_moved_as_by_adamw() -> None:
    ours, theirs = Net(), Net()
    steps(ours, Muon(ours, 1e-9, lr=1e-2, weight_decay=0.1), range(1))
    steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1), range(1))
    assert torch.equal(ours.last.weight, theirs.last.weight)
    assert not torch.equal(ours.first.weight, theirs.first.weight)


def test_goes_on_from_its_state() -> None:
    whole, first = Net(), Net()
    steps(whole, Muon(whole, 0.02, lr=1e-2), range(4))
    optimiser = Muon(first, 0.02, lr=1e-2)
    steps(first, optimiser, range(2))
    model, state = copy.deepcopy(first), copy.deepcopy(optimiser.state_dict())
    again = Muon(model, 0.02, lr=1e-2)
    again.load_state_dict(state)
    steps(model, again, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
