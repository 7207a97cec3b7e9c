"""The optimiser of a training: AdamW, and Muon for the matrices of a net where its recipe says so.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") moves a matrix along its averaged
gradient with all singular values made equal, so that directions which gradients seldom point in are learnt as fast as
the others. A convolution counts as the matrix of its outputs by its window, a transposed one as that of its inputs.

torch.optim.Muon takes no convolutions, and computes in bfloat16, which processors without it are slow at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Fewer rows or columns leave nothing to make equal: small windows over an image's few channels, the last layers.
_SMALLEST_SIDE = 16
# The paper's. _STEPS times x becomes x·(a + b·x² + c·x⁴), which takes singular values from (0,1] to about 0.7 to 1.2.
_MOMENTUM = 0.95
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_STEPS = 5
_TINY = 1e-7
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Muon(torch.optim.AdamW):
    """Muon for the matrices of a model, at a learning rate of their own; AdamW for the rest."""

    def __init__(self, model: nn.Module, matrix_rate: float, **adamw: Any) -> None:
        """adamw: the settings of torch's AdamW."""
        matrices = matrices_of(model)
        rest = {id(parameter): parameter for parameter in model.parameters()}
        for matrix in matrices:
            del rest[id(matrix)]
        groups: list[dict[str, Any]] = [{"params": [*rest.values()]}, {"params": matrices, "lr": matrix_rate}]
        super().__init__(groups, **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[1]
        for alike in _by_shape(group["params"]):
            self._move(alike, group["lr"], group["weight_decay"])
            for matrix in alike:
                matrix.grad = None  # AdamW leaves those alone
        super().step()
        return loss

    def _move(self, matrices: list[Tensor], rate: float, weight_decay: float) -> None:
        """One step of matrices of one shape."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        averages = [self._average(matrix) for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - _MOMENTUM)
        ahead = torch.stack(torch._foreach_lerp(gradients, averages, _MOMENTUM))  # Nesterov's
        moves = orthogonal(ahead.flatten(2)).view_as(ahead)
        rows, columns = matrices[0].flatten(1).shape
        torch._foreach_mul_(matrices, 1 - rate * weight_decay)
        torch._foreach_add_(matrices, moves.unbind(), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _average(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if not state:
            # AdamW, when it is loaded, looks for a step in every state.
            state.update(step=torch.zeros(()), average=torch.zeros_like(matrix))
        average: Tensor = state["average"]
        return average


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [N,R,C] with the same singular vectors, and singular values of about 1, by Newton-Schulz iterations."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """What Muon is made for: the weights of dense layers and convolutions with many rows and columns.

    Other parameters may have the shape of a matrix and be none: a bias of each pixel, embeddings (whose rows are on
    their own, also where a layer shares them).
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            outputs = module.out_features
        elif isinstance(module, _CONVOLUTIONS):
            outputs = module.out_channels
        else:
            continue
        weight = dict(module.named_parameters(recurse=False)).get("weight")  # none where torch computes it from others
        if weight is None or id(weight) in embeddings:
            continue
        # A transposed convolution's weight has its inputs in front.
        if min(outputs, weight.shape[0], weight[0].numel()) >= _SMALLEST_SIDE:
            found[id(weight)] = weight
    return [*found.values()]


def _by_shape(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Those with a gradient, together as they are alike: one product of many small matrices is faster than many."""
    alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            alike[matrix.shape].append(matrix)
    yield from alike.values()
