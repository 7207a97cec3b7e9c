"""Bundles of a made-up family, written with onnx helpers alone: what the server needs to know and nothing more.

The "tally" family: images 4×3×1 with 4 levels. Its encoder's mean is [sum of the bytes / 255, first byte / 255]; its
score is minus the sum of the bytes / 255; its sampler paints level 3 where the uniform is below a half raised by what
the row above left behind, or a row farther up, else level 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from ancestral.v1 import bundle_pb2, tensor_pb2

HEIGHT, WIDTH = 4, 3
U8, BOOL, F32 = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_BOOL, tensor_pb2.DATA_TYPE_FLOAT32
ONNX_TYPES: dict[int, int] = {U8: TensorProto.UINT8, BOOL: TensorProto.BOOL, F32: TensorProto.FLOAT}

Arrays = dict[str, np.ndarray[Any, Any]]


def spec(name: str, meaning: Any, dtype: Any, *shape: int) -> bundle_pb2.TensorSpec:
    return bundle_pb2.TensorSpec(name=name, meaning=meaning, dtype=dtype, shape=shape)


IMAGE = spec("image", bundle_pb2.MEANING_IMAGE, U8, HEIGHT, WIDTH, 1)
MEAN = spec("code", bundle_pb2.MEANING_MEAN, F32, 2)
LIKELIHOOD = spec("log_likelihood", bundle_pb2.MEANING_LOG_LIKELIHOOD, F32)
ROW_INPUTS = [
    spec("given", bundle_pb2.MEANING_GIVEN, U8, WIDTH, 1),
    spec("known", bundle_pb2.MEANING_KNOWN, BOOL, WIDTH, 1),
    spec("uniforms", bundle_pb2.MEANING_UNIFORMS, F32, WIDTH, 1),
    spec("temperature", bundle_pb2.MEANING_TEMPERATURE, F32),
]
ROW = spec("row", bundle_pb2.MEANING_ROW, U8, WIDTH, 1)
STATE = bundle_pb2.StateSpec(input="lift", output="next_lift", shape=[WIDTH, 1])


def encode(images: np.ndarray[Any, Any], offset: float = 0.0) -> np.ndarray[Any, Any]:
    """What the encoder must answer: [N,2] float32 of [N,4,3,1] uint8. `offset` as in `write`."""
    flat = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return np.stack([flat.sum(1) + np.float32(offset), flat[:, 0]], axis=1)


def paint(uniforms: np.ndarray[Any, Any], rows_back: int = 1) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What the sampler must paint of [N,4,3,1] uniforms: images and log-likelihoods. `rows_back` as in `write`."""
    lifts = [np.zeros(uniforms[:, 0].shape, np.float32)] * rows_back
    images = np.zeros(uniforms.shape, np.uint8)
    likelihood = np.zeros(len(uniforms), np.float32)
    for r in range(HEIGHT):
        chance = np.float32(0.5) + lifts[r]
        on = uniforms[:, r] < chance
        images[:, r] = np.where(on, 255, 0)
        likelihood += np.log(np.where(on, chance, 1 - chance)).sum((1, 2))
        lifts.append(np.where(on, np.float32(0.25), np.float32(0)))
    return images, likelihood


def value(tensor: bundle_pb2.TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, ONNX_TYPES[tensor.dtype], ["B", *tensor.shape])


def constant(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def save(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> None:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def encode_graph(
    path: Path, scale: float = 255.0, offset: float = 0.0, layers: int = 0, scratch: int = 0, *, fragile: bool = False
) -> None:
    node = helper.make_node
    work: list[onnx.NodeProto] = []
    work_constants: list[onnx.TensorProto] = []
    if layers:
        work, work_constants = busywork(layers)
    elif scratch:
        work, work_constants = spread(scratch)
    elif fragile:
        work, work_constants = pitfall()
    save(
        path,
        [
            node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            node("Div", ["float", "scale"], ["unit"]),
            node("Flatten", ["unit"], ["flat"]),
            node("ReduceSum", ["flat", "one"], ["sum"], keepdims=1),
            *work,
            node("Sum", ["sum", "offset", *(["nothing"] if work else [])], ["total"]),
            node("Slice", ["flat", "zero", "one", "one"], ["first"]),
            node("Concat", ["total", "first"], ["code"], axis=1),
            node("Neg", ["total"], ["negative"]),
            node("Squeeze", ["negative", "one"], ["log_likelihood"]),
        ],
        [value(IMAGE)],
        [value(MEAN), value(LIKELIHOOD)],
        [
            constant("scale", np.float32(scale)),
            constant("offset", np.float32(offset)),
            constant("zero", np.array([0])),
            constant("one", np.array([1])),
            *work_constants,
        ],
    )


def busywork(layers: int, width: int = 256) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A chain of matrix products of `flat` that takes time and ends in `nothing` [B,1], zeros."""
    random, node = np.random.default_rng(3), helper.make_node
    nodes = [node("MatMul", ["flat", "enter"], ["work_0"])]
    for i in range(layers):
        nodes.append(node("MatMul", [f"work_{i}", "layer"], [f"product_{i}"]))
        nodes.append(node("Relu", [f"product_{i}"], [f"work_{i + 1}"]))
    nodes.append(node("ReduceMax", [f"work_{layers}", "one"], ["most"], keepdims=1))
    nodes.append(node("Mul", ["most", "naught"], ["nothing"]))
    enter = random.normal(size=(HEIGHT * WIDTH, width)).astype(np.float32)
    # He's scaling keeps the products finite and away from zero over any number of layers.
    layer = (random.normal(size=(width, width)) * np.sqrt(2 / width)).astype(np.float32)
    return nodes, [constant("enter", enter), constant("layer", layer), constant("naught", np.float32(0))]


def spread(floats: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A run that needs the memory of so many floats a row, and ends in `nothing` [B,1], zeros."""
    node = helper.make_node
    nodes = [
        node("Tile", ["sum", "times"], ["wide"]),
        node("ReduceMax", ["wide", "one"], ["most"], keepdims=1),
        node("Mul", ["most", "naught"], ["nothing"]),
    ]
    return nodes, [constant("times", np.array([1, floats])), constant("naught", np.float32(0))]


def pitfall() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A run that fails where a byte of an image is 255, and else ends in `nothing` [B,1], zeros."""
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["index"], to=TensorProto.INT64),
        node("Gather", ["table", "index"], ["found"]),
        node("Flatten", ["found"], ["naughts"]),
        node("ReduceMax", ["naughts", "one"], ["nothing"], keepdims=1),
    ]
    return nodes, [constant("table", np.zeros(255, np.float32))]


def sample_graph(path: Path) -> None:
    node = helper.make_node
    state = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", WIDTH, 1]) for n in (STATE.input, STATE.output)]
    save(
        path,
        [
            node("Add", ["lift", "half"], ["chance"]),
            node("Less", ["uniforms", "chance"], ["lit"]),
            node("Where", ["lit", "white", "black"], ["drawn"]),
            node("Where", ["known", "given", "drawn"], ["row"]),
            node("Where", ["lit", "quarter", "none"], ["next_lift"]),
            node("Sub", ["unity", "chance"], ["other"]),
            node("Where", ["lit", "chance", "other"], ["probability"]),
            node("Log", ["probability"], ["pixel_log"]),
            node("Where", ["known", "none", "pixel_log"], ["free_log"]),
            # Named so that every declared input is used; a temperature changes nothing here.
            node("Mul", ["temperature", "none"], ["nothing"]),
            node("ReduceSum", ["free_log", "axes"], ["row_log"], keepdims=0),
            node("Add", ["row_log", "nothing"], ["log_likelihood"]),
        ],
        [*map(value, ROW_INPUTS), state[0]],
        [value(ROW), value(LIKELIHOOD), state[1]],
        [
            constant("half", np.float32(0.5)),
            constant("quarter", np.float32(0.25)),
            constant("none", np.float32(0)),
            constant("unity", np.float32(1)),
            constant("white", np.uint8(255)),
            constant("black", np.uint8(0)),
            constant("axes", np.array([1, 2])),
        ],
    )


def roles() -> list[bundle_pb2.Role]:
    one_shot, raster = bundle_pb2.PROGRAM_ONE_SHOT, bundle_pb2.PROGRAM_RASTER
    return [
        bundle_pb2.Role(name="encode", program=one_shot, graph="encode.onnx", inputs=[IMAGE], outputs=[MEAN]),
        bundle_pb2.Role(
            name="score",
            program=one_shot,
            graph="encode.onnx",
            inputs=[IMAGE],
            outputs=[LIKELIHOOD],
            likelihood=bundle_pb2.LIKELIHOOD_EXACT,
        ),
        bundle_pb2.Role(
            name="sample",
            program=raster,
            graph="sample.onnx",
            inputs=ROW_INPUTS,
            outputs=[ROW, LIKELIHOOD],
            states=[STATE],
        ),
    ]


def golden(offset: float = 0.0, rows_back: int = 1) -> Arrays:
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (3, HEIGHT, WIDTH, 1), dtype=np.uint8)
    uniforms = random.random((3, HEIGHT, WIDTH, 1), dtype=np.float32)
    painted, likelihood = paint(uniforms, rows_back)
    code = encode(images, offset)
    return {
        "encode/in/image": images,
        "encode/out/code": code,
        "score/in/image": images,
        "score/out/log_likelihood": -code[:, 0],
        "sample/in/given": np.zeros_like(images),
        "sample/in/known": np.zeros(images.shape, np.bool_),
        "sample/in/uniforms": uniforms,
        "sample/in/temperature": np.ones(3, np.float32),
        "sample/out/row": painted,
        "sample/out/log_likelihood": likelihood,
    }


def listed(path: Path) -> bundle_pb2.BundleFile:
    """What a manifest says of a file beside it."""
    content = path.read_bytes()
    return bundle_pb2.BundleFile(path=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def write(
    models: Path,
    name: str = "tally",
    version: int = 1,
    *,
    scale: float = 255.0,
    offset: float = 0.0,
    layers: int = 0,
    scratch: int = 0,
    fragile: bool = False,
    rows_back: int = 1,
    change: Callable[[bundle_pb2.Bundle], None] | None = None,
    graph: Callable[[onnx.ModelProto], None] | None = None,
) -> Path:
    """Write models/name/version and return it. `scale` other than 255 makes its encoder answer wrongly; `offset`
    is added to the encoder's total, so that versions can be told apart; `layers` makes a run of the encoder take
    time, `scratch` memory, `fragile` fail where a byte is 255; the sampler reads its state `rows_back` rows later;
    `change` edits the manifest before it is written,
    `graph` the encoder's graph.
    """
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    encode_graph(folder / "encode.onnx", scale, offset, layers, scratch, fragile=fragile)
    if graph is not None:
        model = onnx.load(folder / "encode.onnx")
        graph(model)
        onnx.save(model, folder / "encode.onnx")
    sample_graph(folder / "sample.onnx")
    with (folder / "golden.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **golden(offset, rows_back))
    manifest = bundle_pb2.Bundle(
        schema=1,
        name=name,
        version=version,
        family="tally",
        description="A made-up family.",
        image=bundle_pb2.ImageSpec(height=HEIGHT, width=WIDTH, channels=1, levels=4),
        latent_size=2,
        roles=roles(),
        golden=bundle_pb2.Golden(path="golden.npz", tolerance=1e-5),
        # Of images of noise.
        training_moments=bundle_pb2.TrainingMoments(
            images=1000, intensity_mean=0.5, intensity_std=0.1, latent_mean=[6, 0.5], latent_std=[1, 0.3]
        ),
    )
    if rows_back > 1:
        manifest.schema = 2
        manifest.roles[2].states[0].rows_back = rows_back
    for path in sorted(folder.iterdir()):
        manifest.files.append(listed(path))
    if change is not None:
        change(manifest)
    document = json_format.MessageToDict(manifest, preserving_proto_field_name=True)
    (folder / "bundle.json").write_text(json.dumps(document, indent=2))
    return folder
