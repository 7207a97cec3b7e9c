"""The row graph of a PixelCNN, built from random arrays: which rows its states are, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ancestral.bundle.rules import rows_back
from ancestral_exporter.models import pixelcnn_rows
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn_weights import LayerWeights, NetWeights, multiply_adds
from ancestral_exporter.models.row_graph import Array, HeadWeights

IMAGE = ImageShape(9, 5, 2, 3)
CHANNELS, HIDDEN, BATCH = 6, 7, 4
DILATIONS = [(1, 1), (3, 2), (2, 4)]


def random_net(image: ImageShape, dilations: Sequence[tuple[int, int]] = DILATIONS, *, classes: int = 0) -> NetWeights:
    """One vertical layer more than dilations, and two horizontal ones."""
    random = np.random.default_rng(0)

    def array(*shape: int) -> Array:
        return random.standard_normal(shape, np.float32)

    def layer(inputs: int, taps: tuple[int, int], dilation: tuple[int, int], *, linked: bool) -> LayerWeights:
        return LayerWeights(
            taps=taps,
            dilation=dilation,
            window=array(taps[0] * taps[1] * inputs, 2 * CHANNELS),
            bias=array(2 * CHANNELS),
            project=array(CHANNELS, CHANNELS),
            link=array(CHANNELS, 2 * CHANNELS) if linked else None,
            label=array(classes, 2 * CHANNELS) if classes else None,
        )

    features = image.channels  # the value of each
    return NetWeights(
        vertical=[
            layer(features, (2, 3), (1, 1), linked=False),
            *(layer(CHANNELS, (2, 3), dilation, linked=False) for dilation in dilations),
        ],
        horizontal=[
            layer(features, (1, 2), (1, 1), linked=True),
            layer(CHANNELS, (1, 2), (1, 1), linked=True),
        ],
        links=[0, len(dilations)],
        head=HeadWeights(
            feature_table=np.linspace(-1, 1, image.levels, dtype=np.float32)[:, None],
            hidden=array(CHANNELS, image.channels * HIDDEN),
            hidden_bias=array(image.channels * HIDDEN),
            earlier=[array(c, HIDDEN) for c in range(1, image.channels)],
            logits=[(array(HIDDEN, image.levels), array(image.levels)) for _ in range(image.channels)],
        ),
    )


class Rows:
    """The graph of a net, ready to run."""

    def __init__(self, net: NetWeights) -> None:
        self.role = pixelcnn_rows.role(IMAGE, net, "sample.onnx")
        graph = pixelcnn_rows.build(IMAGE, net).SerializeToString()
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def feeds(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of a run in the middle of an image: every state is random."""
        random = np.random.default_rng(seed)
        row = (BATCH, IMAGE.width, IMAGE.channels)
        feeds: dict[str, Array] = {
            "given": random.integers(0, 256, row, dtype=np.uint8),
            "known": random.random(row) < 0.3,
            "uniforms": random.random(row, np.float32),
            "temperature": np.ones(BATCH, np.float32),
        }
        return feeds | {
            state.input: random.standard_normal((BATCH, *state.shape), np.float32) for state in self.role.states
        }

    def run(self, feeds: dict[str, Array]) -> dict[str, Any]:
        names = [spec.name for spec in self.role.outputs] + [state.output for state in self.role.states]
        return dict(zip(names, self.session.run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows(random_net(IMAGE))


def test_the_role_is_what_the_graph_has(rows: Rows) -> None:
    inputs = [spec.name for spec in rows.role.inputs] + [state.input for state in rows.role.states]
    assert {value.name for value in rows.session.get_inputs()} == set(inputs)
    answers = rows.run(rows.feeds())
    assert {value.name for value in rows.session.get_outputs()} == set(answers)
    for state in rows.role.states:
        assert answers[state.output].shape == (BATCH, *state.shape)
    (whole, *above) = rows.role.states
    assert (list(whole.shape), rows_back(whole)) == ([2, IMAGE.width, IMAGE.channels], 1)
    assert [list(state.shape) for state in above] == [[IMAGE.width, CHANNELS]] * len(DILATIONS)
    assert [rows_back(state) for state in above] == [dilation for dilation, _ in DILATIONS]
    # Unset is what servers know that know nothing of it.
    assert [state.HasField("rows_back") for state in above] == [dilation > 1 for dilation, _ in DILATIONS]


def test_the_row_that_a_state_gives_is_of_this_run_alone(rows: Rows) -> None:
    """The state has no say in it, being of the layer that looks at it."""
    feeds = rows.feeds()
    answers = rows.run(feeds)
    for state in rows.role.states[1:]:
        other = rows.run({**feeds, state.input: -feeds[state.input]})
        np.testing.assert_array_equal(other[state.output], answers[state.output])
        assert (other["log_likelihood"] != answers["log_likelihood"]).all()


def test_a_dilation_changes_no_node_of_the_graph() -> None:
    """But where its windows' columns lie."""
    ones, others = [(1, columns) for _, columns in DILATIONS], DILATIONS
    graphs = [pixelcnn_rows.build(IMAGE, random_net(IMAGE, dilations)) for dilations in (ones, others)]
    assert graphs[0].SerializeToString(deterministic=True) == graphs[1].SerializeToString(deterministic=True)


@pytest.mark.parametrize("column", range(IMAGE.width))
def test_columns_of_a_window_lie_a_dilation_apart(column: int) -> None:
    """Of a net of one dilated layer, whose output the next layer's state shows."""
    for apart in (1, 2, 4):
        graph = Rows(random_net(IMAGE, [(2, apart), (1, 1)]))
        feeds = graph.feeds()
        changed = feeds["above_1"].copy()
        changed[:, column] += 1
        before, after = (
            graph.run({**feeds, "above_1": state})["next_above_2"] for state in (feeds["above_1"], changed)
        )
        touched = [place for place in range(IMAGE.width) if (before[:, place] != after[:, place]).any()]
        assert touched == [place for place in range(IMAGE.width) if abs(place - column) in (0, apart)]


def test_a_class_is_an_input_where_there_are_classes() -> None:
    graph = Rows(random_net(IMAGE, classes=3))
    feeds = graph.feeds()
    one, other = (graph.run({**feeds, "label": np.full(BATCH, label)})["log_likelihood"] for label in (0, 2))
    assert (one != other).all()


def test_multiply_adds_do_not_depend_on_dilations() -> None:
    plain = random_net(IMAGE, [(1, 1)] * len(DILATIONS))
    assert multiply_adds(plain, 45) == multiply_adds(random_net(IMAGE), 45)
