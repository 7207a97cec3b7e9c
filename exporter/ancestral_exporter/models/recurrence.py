"""A convolutional LSTM: many cells side by side, each of which sees its neighbours' last states.

It is a loop here, and a Scan in an exported graph, however many steps there are: tracing writes a single node, which
`recurrence_graph.expand` puts the Scan in the place of. Letters: T steps, G groups with weights of their own, N images,
P places, S size of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ancestral_exporter.models.recurrence_graph import DOMAIN, OFFSETS, OPERATOR


def convolutional_lstm(gates: Tensor, weights: Tensor, offsets: Sequence[int]) -> Tensor:
    """Hidden states [T,G,N,P,S], given what the inputs [T,G,N,P,4S] and weights [G,len(offsets)·S,4S] add to the gates.

    The gates are in the order output, forget, input, candidate; a sigmoid is taken of the first three and a tanh of the
    last. In each step the cell at place p sees the hidden states that those at p + `offsets` had a step before, zeros
    outside the P places and before the first step.
    """
    steps, groups, count, places, width = gates.shape
    size = width // 4
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            [gates, weights],
            {OFFSETS: list(offsets)},
            dtype=gates.dtype,
            shape=[steps, groups, count, places, size],
            version=1,
        )
    before, after = max(0, -min(offsets)), max(0, max(offsets))
    hidden = cell = gates.new_zeros(groups, count, places, size)
    states: list[Tensor] = []
    for step in gates.unbind(0):
        if states:
            around = functional.pad(hidden, (0, 0, before, after))
            window = torch.cat([around.narrow(2, before + offset, places) for offset in offsets], dim=3)
            step = step + torch.bmm(window.flatten(1, 2), weights).view(step.shape)
        output, forget, enter = torch.sigmoid(step[..., : 3 * size]).chunk(3, dim=-1)
        cell = forget * cell + enter * torch.tanh(step[..., 3 * size :])
        hidden = output * torch.tanh(cell)
        states.append(hidden)
    return torch.stack(states)


def skew(values: Tensor) -> Tensor:
    """[...,H,W,D] -> [T,...,H,D], T = H+W−1: row r moved right by r pixels, zeros around, and columns become steps.

    Then the pixel to the left and the one above are both one step back, so a diagonal of the image is one step.
    """
    *others, height, width, channels = values.shape
    padded = functional.pad(values, (0, 0, 0, height)).flatten(-3, -2)
    steps = height + width - 1
    return padded[..., : height * steps, :].reshape(*others, height, steps, channels).movedim(-2, 0)


def unskew(values: Tensor, width: int) -> Tensor:
    """[T,...,H,D] -> [...,H,W,D]: the inverse of `skew`."""
    rows = values.movedim(0, -2)
    *others, height, steps, channels = rows.shape
    padded = functional.pad(rows.flatten(-3, -2), (0, 0, 0, height))
    return padded.reshape(*others, height, steps + 1, channels)[..., :width, :]
