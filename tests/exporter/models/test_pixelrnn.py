"""PixelRNN: its layers are the paper's recurrences, causal; and the row graph samples what the slow sampler samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from ancestral_exporter.bundle.runtime import run_role
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelrnn import DiagonalBiLSTM, PixelRNN, PixelRNNSettings, RowLSTM
from ancestral_exporter.models.recurrence import convolutional_lstm, skew, unskew
from rasters import dependences, feeds_of, raster, torch_feeds

GREY = ImageShape(5, 6, 1, 4)
COLOUR = ImageShape(4, 5, 3, 5)
BINARY = ImageShape(6, 5, 1, 2)
KINDS = ("row-lstm", "diagonal-bilstm")


def make_model(shape: ImageShape, **options: Any) -> PixelRNN:
    """A random model whose pixels depend strongly on each other."""
    torch.manual_seed(0)
    model = PixelRNN(shape, PixelRNNSettings(**{"size": 6, "layers": 2, "first_window": (2, 3), **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.logits") and name.endswith("bias"):
                parameter.normal_()  # no ties at the first pixel
            elif name.startswith("head.logits"):
                parameter.mul_(8)
            elif "lstm" in name or "project" in name:
                parameter.mul_(2)
    return model


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        pytest.param(BINARY, {}, id="binary"),
        pytest.param(GREY, {"one_hot": True, "label_count": 3, "head_channels": 9}, id="grey-one-hot-labels"),
        pytest.param(COLOUR, {"label_count": 2, "layers": 1, "first_pixels": 1}, id="colour-labels"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_row_graph_paints_what_naive_sampling_paints(kind: str, shape: ImageShape, options: dict[str, Any]) -> None:
    model = make_model(shape, layer=kind, **options)
    graph, session = raster(model)
    feeds = feeds_of(graph, shape, 64, model.label_count)
    painted = run_role(session, graph.role, feeds, shape.height)
    naive, naive_scores = model.sample_naive(*torch_feeds(feeds))
    np.testing.assert_array_equal(painted["row"], naive.numpy())
    np.testing.assert_allclose(painted["log_likelihood"], naive_scores.numpy(), rtol=2e-6, atol=2e-5)
    # The model is sharp, or the test would say little: images cost far less than independent pixels do.
    warm = feeds["temperature"] == 1
    nats = -painted["log_likelihood"][warm] / (~feeds["known"][warm]).sum((1, 2, 3))
    assert nats.mean() < 0.8 * np.log(shape.levels)


@pytest.mark.parametrize("shape", [ImageShape(4, 6, 1, 3), ImageShape(3, 4, 2, 3), ImageShape(1, 1, 3, 2)])
@pytest.mark.parametrize("columns", [1, 5])
def test_diagonal_logits_depend_on_the_pixels_before_but_one(shape: ImageShape, columns: int) -> None:
    """One layer is enough: its two directions see all between them, but for the end of the row above.

    The direction from the right has read, at the last pixel of that row, what is before it. So the paper's net sees
    that pixel through the first window alone.
    """
    model = make_model(shape, layers=1, first_window=(1, columns), first_pixels=1)
    seen = dependences(model, model.pixel_features).reshape(2 * shape.hwc)
    expected = np.tri(shape.values, k=-1, dtype=np.bool_).reshape(2 * shape.hwc)
    for row, column in np.ndindex(shape.height - 1, shape.width):
        if column + columns // 2 < shape.width - 1:
            expected[row + 1, column, :, row, -1] = False
    np.testing.assert_array_equal(seen, expected)


def test_row_logits_depend_on_the_pixels_before_within_a_triangle() -> None:
    shape = ImageShape(4, 8, 1, 3)
    model = make_model(shape, layer="row-lstm", layers=4, first_window=(1, 3), first_pixels=3)
    seen = dependences(model, model.pixel_features).reshape(4, 8, 4, 8)
    for row, column in np.ndindex(4, 8):
        up = row - np.arange(4)[:, None]
        across = np.arange(8) - column
        # A row up, one column more to the right; to the left the layers see all.
        expected = ((up > 0) & (across <= up)) | ((up == 0) & (across < 0))
        np.testing.assert_array_equal(seen[row, column], expected, err_msg=f"row {row}, column {column}")


def step(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3 of the paper, for one pixel: sums [N,4S] in the order o, f, i, g."""
    o, f, i, g = sums.chunk(4, dim=-1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


@torch.no_grad()
def test_the_row_lstm_is_the_papers() -> None:
    """Section 3.1, pixel by pixel: states of three columns above, inputs of the pixel before and the own one."""
    torch.manual_seed(0)
    layer, size = RowLSTM(3, label_count=2), 3
    torch.nn.init.normal_(layer.states)
    inputs, labels = torch.randn(2, 4, 5, 2 * size), torch.tensor([1, 0])
    assert layer.label is not None
    zero = torch.zeros(2, size)
    hidden: dict[tuple[int, int], Tensor] = {}
    cells: dict[tuple[int, int], Tensor] = {}
    for row, column in np.ndindex(4, 5):
        before = inputs[:, row, column - 1] if column else torch.zeros(2, 2 * size)
        around = [hidden.get((row - 1, column + offset), zero) for offset in (-1, 0, 1)]
        sums = layer.inputs(torch.cat([before, inputs[:, row, column]], 1)) + layer.label(labels)
        sums = sums + torch.cat(around, 1) @ layer.states[0]
        hidden[row, column], cells[row, column] = step(sums, cells.get((row - 1, column), zero))
    expected = torch.stack([hidden[at] for at in np.ndindex(4, 5)], 1).reshape(2, 4, 5, size)
    torch.testing.assert_close(layer(inputs, labels), expected)


@torch.no_grad()
def test_the_diagonal_bilstm_is_the_papers() -> None:
    """Section 3.2, pixel by pixel, without skewing: states beside and above; the other direction a row later."""
    torch.manual_seed(0)
    layer, size = DiagonalBiLSTM(3, label_count=2), 3
    torch.nn.init.normal_(layer.states)
    inputs, labels = torch.randn(2, 4, 5, 2 * size), torch.tensor([1, 0])
    assert layer.label is not None
    gates = (layer.inputs(inputs) + layer.label(labels)[:, None, None]).chunk(2, 3)
    zero = torch.zeros(2, size)
    found = []
    for direction, came_from in ((0, -1), (1, 1)):
        hidden: dict[tuple[int, int], Tensor] = {}
        cells: dict[tuple[int, int], Tensor] = {}
        for row, column in sorted(np.ndindex(4, 5), key=lambda at: (at[0], -came_from * at[1])):
            beside = row, column + came_from
            seen = torch.cat([hidden.get((row - 1, column), zero), hidden.get(beside, zero)], 1)
            sums = gates[direction][:, row, column] + seen @ layer.states[direction]
            hidden[row, column], cells[row, column] = step(sums, cells.get(beside, zero))
        found.append(hidden)
    expected = [found[0][row, column] + found[1].get((row - 1, column), zero) for row, column in np.ndindex(4, 5)]
    torch.testing.assert_close(layer(inputs, labels), torch.stack(expected, 1).reshape(2, 4, 5, size))


@torch.no_grad()
def test_a_convolutional_lstm_of_one_place_is_an_lstm() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3)
    inputs = torch.randn(7, 4, 2)
    order = [3, 1, 0, 2]  # torch has i, f, g, o

    def ours(weights: Tensor) -> Tensor:
        return torch.cat([weights.chunk(4)[i] for i in order])

    theirs = dict(lstm.named_parameters())
    sums = inputs @ ours(theirs["weight_ih_l0"]).T + ours(theirs["bias_ih_l0"] + theirs["bias_hh_l0"])
    states = convolutional_lstm(sums[:, None, :, None], ours(theirs["weight_hh_l0"]).T[None], (0,))
    torch.testing.assert_close(states[:, 0, :, 0], lstm(inputs)[0])


def test_skewing_makes_columns_of_diagonals() -> None:
    values = torch.arange(12.0).reshape(1, 3, 4, 1)
    skewed = skew(values)
    assert skewed.squeeze().T.tolist() == [[0, 1, 2, 3, 0, 0], [0, 4, 5, 6, 7, 0], [0, 0, 8, 9, 10, 11]]
    assert torch.equal(unskew(skewed, 4), values)


@pytest.mark.parametrize("kind", KINDS)
def test_multiply_adds_are_those_of_the_graph(kind: str) -> None:
    """Every matrix of weights is there once, and meets every pixel once."""
    model = make_model(COLOUR, layer=kind, label_count=2)
    graph = raster(model)[0]
    matrices = list(weights(graph.build().graph))
    assert sum(graph.multiply_adds.values()) == COLOUR.height * COLOUR.width * sum(map(np.size, matrices))


def weights(graph: onnx.GraphProto) -> list[np.ndarray[Any, Any]]:
    """The constants that a graph and its Scans multiply by, those of a draw and of a sum of scores left out."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = [constants[node.input[1]] for node in graph.node if node.op_type == "Gemm"]
    for node in graph.node:
        for attribute in node.attribute:
            found += weights(attribute.g)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_samples_at_different_rows_share_a_batch(kind: str) -> None:
    model = make_model(GREY, layer=kind)
    graph, session = raster(model)
    feeds = feeds_of(graph, GREY, 3)
    alone = run_role(session, graph.role, feeds, GREY.height)["row"]
    names = [state.output for state in graph.role.states]
    fresh = [np.zeros((1, *state.shape), np.float32) for state in graph.role.states]
    # Sample 1 begins when sample 0 is at row 2: its states are zeros, whatever the other's are.
    states = fresh
    for row in range(GREY.height):
        running = [0] if row < 2 else [0, 1]
        if row == 2:
            states = [np.concatenate(pair) for pair in zip(states, fresh, strict=True)]
        now = {
            key: value[running] if key == "temperature" else np.stack([value[i, row - 2 * i] for i in running])
            for key, value in feeds.items()
        }
        inputs = {state.input: value for state, value in zip(graph.role.states, states, strict=True)}
        painted, *states = session.run(["row", *names], now | inputs)
        for place, i in enumerate(running):
            np.testing.assert_array_equal(painted[place], alone[i, row - 2 * i])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="first_window must have an odd number of columns, not 4"):
        PixelRNNSettings(first_window=(2, 4))
