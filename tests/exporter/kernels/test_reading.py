"""The weights that are read out of a row graph are those that it was built of."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

import kernelnets
from ancestral.v1 import bundle_pb2
from ancestral_exporter.kernels.reading import NotCovered, read_net
from ancestral_exporter.models.autoregressive import Autoregressive
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.masked_pixelcnn import MaskedPixelCNN, MaskedPixelCNNSettings
from ancestral_exporter.models.pixelcnn_weights import LayerWeights
from ancestral_exporter.models.pixelrnn import PixelRNN, PixelRNNSettings
from kernelnets import Net

SHAPE = ImageShape(4, 3, 1, 2)


def assert_same(got: LayerWeights, wanted: LayerWeights) -> None:
    for field in dataclasses.fields(LayerWeights):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(wanted, field.name), field.name)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(net=kernelnets.nets())
def test_every_weight_is_read(net: Net) -> None:
    model = net.model()
    graph, wanted = model.row_graph(), model.weights()
    got = read_net(graph.build(), graph.role, net.shape)
    for stack in ("vertical", "horizontal"):
        for one, other in zip(getattr(got, stack), getattr(wanted, stack), strict=True):
            if net.shape.width == 1:  # columns of one column lie nowhere
                other = dataclasses.replace(other, dilation=(other.dilation[0], 1))
            assert_same(one, other)
    assert list(got.links) == list(wanted.links)
    np.testing.assert_array_equal(got.head.feature_table, wanted.head.feature_table)
    np.testing.assert_array_equal(got.head.hidden, wanted.head.hidden)
    np.testing.assert_array_equal(got.head.hidden_bias, wanted.head.hidden_bias)
    for one, other in zip(got.head.earlier, wanted.head.earlier, strict=True):
        np.testing.assert_array_equal(one, other)
    mixture = wanted.head.mixture
    assert (got.head.mixture and got.head.mixture.mixtures) == (mixture and mixture.mixtures)
    numbers = 1 if net.shape.levels == 2 else 3 * mixture.mixtures if mixture else net.shape.levels
    assert [weight.shape[1] for weight, _ in got.head.logits] == [numbers] * net.shape.channels


@pytest.mark.parametrize(
    "model",
    [
        PixelRNN(SHAPE, PixelRNNSettings(size=8, layers=2)),
        PixelRNN(SHAPE, PixelRNNSettings(size=8, layers=1)),
        *(MaskedPixelCNN(SHAPE, MaskedPixelCNNSettings(size=4, layers=layers)) for layers in (1, 2, 3)),
    ],
)
def test_what_is_no_gated_pixelcnn_is_not_covered(model: Autoregressive) -> None:
    graph = model.row_graph()
    with pytest.raises(NotCovered, match=r"^sample\.onnx is not the row graph of a gated PixelCNN, which is all"):
        read_net(graph.build(), graph.role, SHAPE)


def test_a_role_whose_inputs_stand_in_another_order_is_not_covered() -> None:
    net = Net(SHAPE, {"channels": 8})
    graph = net.model().row_graph()
    role = bundle_pb2.Role()
    role.CopyFrom(graph.role)
    del role.inputs[:]
    role.inputs.extend(reversed(graph.role.inputs))
    with pytest.raises(NotCovered):
        read_net(graph.build(), role, net.shape)


def test_a_graph_of_something_else_is_not_covered() -> None:
    net = Net(SHAPE, {"channels": 8})
    graph = net.model().row_graph()
    with pytest.raises(NotCovered):
        read_net(onnx.ModelProto(), graph.role, net.shape)
