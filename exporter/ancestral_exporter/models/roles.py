"""Manifest entries of one-shot roles, in fewer words: tensors by name and meaning, graphs with one role each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import nn

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape, OneShotGraph

M = TypeVar("M", bound=nn.Module)


class RoleGraph(nn.Module, Generic[M]):
    """The computation of a role, over the weights of a model; its inputs and outputs are those that the model declares
    in `graphs`.
    """

    def __init__(self, model: M) -> None:
        super().__init__()
        self.model = model


def tensor(
    name: str,
    meaning: bundle_pb2.Meaning.ValueType,
    shape: tuple[int, ...] = (),
    dtype: tensor_pb2.DataType.ValueType = tensor_pb2.DATA_TYPE_FLOAT32,
) -> bundle_pb2.TensorSpec:
    """A tensor of so many values per image, axis 0 left out."""
    return bundle_pb2.TensorSpec(name=name, meaning=meaning, dtype=dtype, shape=shape)


def image_tensor(image: ImageShape) -> bundle_pb2.TensorSpec:
    """Images [N,H,W,C] uint8, in or out."""
    return tensor("image", bundle_pb2.MEANING_IMAGE, image.hwc, tensor_pb2.DATA_TYPE_UINT8)


def one_shot(
    role: str,
    inputs: Sequence[bundle_pb2.TensorSpec],
    outputs: Sequence[bundle_pb2.TensorSpec],
    module: nn.Module,
    *,
    in_order: bool = True,
) -> OneShotGraph:
    """A graph of its own for a role, so that none computes, or must be fed, what it does not need."""
    file = f"{role}.onnx"
    spec = bundle_pb2.Role(name=role, program=bundle_pb2.PROGRAM_ONE_SHOT, graph=file, inputs=inputs, outputs=outputs)
    return OneShotGraph(file, [spec], module, in_order)
