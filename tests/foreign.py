"""Small nets as somebody else would have trained and exported them: no part of ours has made these files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SIDE, CLASSES, LATENTS = 8, 5, 6


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return values / np.float32(np.sqrt(np.prod(shape[:-1])))


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    source: onnx.ValueInfoProto | Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
    opset: int = 17,
) -> Path:
    inputs = [source] if isinstance(source, onnx.ValueInfoProto) else list(source)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "theirs", inputs, list(outputs), initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.producer_name = "somebody"
    onnx.save_model(model, str(path))
    return path


def value(name: str, *shape: int | str | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def classifier(
    path: Path,
    *,
    batch: int | str = "n",
    softmax: bool = False,
    opset: int = 17,
    shape: Sequence[int | str] = (3, SIDE, SIDE),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """x → float32 → flattened → product → y, and a softmax after it where that is wanted."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z" if softmax else "y"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], axis=1))
    constants = {"w": 8 * weights(3 * SIDE * SIDE, CLASSES)}
    return save(path, nodes, value("x", batch, *shape, dtype=dtype), [value("y", batch, CLASSES)], constants, opset)


def encoder(path: Path) -> Path:
    """A fixed batch of 1, written into a Reshape too; two outputs of its own names, one of them [1,Z/2,1,2]."""
    nodes = [
        helper.make_node("Conv", ["pixels", "k"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "a"], ["m"]),
        helper.make_node("Reshape", ["m", "map"], ["z_mean"]),
        helper.make_node("MatMul", ["flat", "b"], ["z_logvar"]),
    ]
    constants = {
        "k": weights(4, 1, 3, 3),
        "shape": np.array([1, 64]),
        "a": weights(64, LATENTS, seed=1),
        "b": weights(64, LATENTS, seed=2),
        "map": np.array([1, LATENTS // 2, 1, -1]),
    }
    outputs = [value("z_mean", 1, LATENTS // 2, 1, 2), value("z_logvar", 1, LATENTS)]
    return save(path, nodes, value("pixels", 1, 1, SIDE, SIDE), outputs, constants, opset=13)


def decoder(path: Path, *, flat: bool = False) -> Path:
    """latents [n,Z] → tanh → images in [-1,1], [n,3,8,8], or flat."""
    size = 3 * SIDE * SIDE
    nodes = [helper.make_node("MatMul", ["z", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["x" if flat else "t"])]
    constants = {"w": 6 * weights(LATENTS, size)}
    shape: tuple[int, ...] = (size,)
    if not flat:
        nodes.append(helper.make_node("Reshape", ["t", "shape"], ["x"]))
        constants["shape"] = np.array([-1, 3, SIDE, SIDE])
        shape = (3, SIDE, SIDE)
    return save(path, nodes, value("z", "n", LATENTS), [value("x", "n", *shape)], constants)


class TinyKL(nn.Module):
    """What is used of diffusers' AutoencoderKL: encoder, quant_conv, decode and config."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            latent_channels=2,
            sample_size=SIDE,
            scaling_factor=0.5,
            shift_factor=0.25,
        )
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, 1, 1))
        self.quant_conv = nn.Conv2d(4, 4, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(2, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, 1, 1)
        )

    def decode(self, z: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        assert not return_dict
        return (self.decoder(z),)
