"""The tensors of a role by name, as the Open Inference Protocol shows them.

Letters: N rows of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.draws import DrawLimit, PosteriorDraw
from ancestral_server.runtime.program import Meaning, Program, RasterProgram
from inference import open_inference_service_pb2 as oip

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
TEMPERATURE = bundle_pb2.MEANING_TEMPERATURE
LABEL = bundle_pb2.MEANING_LABEL
LATENT = bundle_pb2.MEANING_LATENT
GIVEN = bundle_pb2.MEANING_GIVEN
KNOWN = bundle_pb2.MEANING_KNOWN
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
LOG_WEIGHT = bundle_pb2.MEANING_LOG_WEIGHT
MEAN = bundle_pb2.MEANING_MEAN
# Outputs of graphs that others are made of, and that nobody else sees; outputs that are given where they are named.
_MADE_OF = (bundle_pb2.MEANING_ROW, LOG_WEIGHT)
_BY_NAME = (bundle_pb2.MEANING_PIXEL_MEAN, bundle_pb2.MEANING_PIXEL_VARIANCE)
# The one tensor that no graph has: which samples of the seed's sequence are wanted.
INDEX = bundle_pb2.MEANING_UNSPECIFIED

DATATYPES: dict[int, str] = {
    tensor_pb2.DATA_TYPE_UINT8: "UINT8",
    tensor_pb2.DATA_TYPE_BOOL: "BOOL",
    tensor_pb2.DATA_TYPE_INT32: "INT32",
    tensor_pb2.DATA_TYPE_INT64: "INT64",
    tensor_pb2.DATA_TYPE_FLOAT32: "FP32",
}


@dataclass(frozen=True, slots=True)
class Port:
    """One tensor [N, *shape]."""

    name: str
    meaning: Meaning
    datatype: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    # What one row of the tensor takes.
    bytes: int
    # The most that an element may be, and at least 0; None where the meaning sets no such bound.
    most: float | None
    # As a reply with one row describes it, to be copied, which is faster than to put it together.
    described: oip.ModelInferResponse.InferOutputTensor
    # Of an input: a request may leave it out, with all others that it may; and one row of it may be that of every row.
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a request wants: outputs, in order."""

    ports: tuple[Port, ...]
    meanings: tuple[Meaning, ...]
    # What one row of all these tensors takes.
    bytes: int

    @staticmethod
    def of(ports: Sequence[Port]) -> Outputs:
        return Outputs(tuple(ports), tuple(port.meaning for port in ports), sum(port.bytes for port in ports))


@dataclass(frozen=True, slots=True)
class Signature:
    """A role as the protocol shows it.

    One that `draws` has no input but noise, temperature and label: a request says by index which samples it wants, the
    rest by parameters, and where images are painted by tensors which pixels to keep.
    """

    draws: bool
    # How many labels such a request can choose from; 0 where it has none to choose.
    classes: int
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    # Outputs where the request names none, without and with a seed.
    default: Outputs
    default_seeded: Outputs
    # Of the draws that its likelihoods are made of; None where it gives none of images that it is given.
    limit: DrawLimit | None
    # Outputs that requests have named, by their names in that order.
    asked: dict[tuple[str, ...], Outputs] = field(default_factory=dict, compare=False)


def signature(program: Program) -> Signature:
    """The signature of a program, to be made once."""
    draws = isinstance(program, RasterProgram) or program.inputs.keys() <= {UNIFORMS, TEMPERATURE, LABEL}
    if draws:
        inputs = [_port("index", INDEX, tensor_pb2.DATA_TYPE_INT64, (), convert.MAX_SEED)]
        if isinstance(program, RasterProgram):
            # Whole images, of which the graph takes a row at a time.
            kept = (("given", GIVEN, tensor_pb2.DATA_TYPE_UINT8), ("known", KNOWN, tensor_pb2.DATA_TYPE_BOOL))
            inputs += [replace(_port(*named, program.image_shape), optional=True) for named in kept]
    else:
        inputs = [_of(tensor, program) for meaning, tensor in program.inputs.items() if meaning != UNIFORMS]
    outputs = [_of(tensor, program) for meaning, tensor in program.outputs.items() if meaning not in _MADE_OF]
    if LOG_WEIGHT in program.outputs:
        outputs.append(_port(_unused("log_likelihood", outputs), LOG_LIKELIHOOD, tensor_pb2.DATA_TYPE_FLOAT32, ()))
    if PosteriorDraw.possible(program):
        size = tuple(program.outputs[MEAN].shape)
        outputs.append(_port(_unused("latent", outputs), LATENT, tensor_pb2.DATA_TYPE_FLOAT32, size))
    if isinstance(program, RasterProgram):
        # What rows become, and under the name that one-shot samplers give it.
        outputs.insert(0, _port("image", IMAGE, tensor_pb2.DATA_TYPE_UINT8, program.image_shape))
    usual = tuple(port for port in outputs if port.meaning not in _BY_NAME) or tuple(outputs)
    # Of an encoder, z drawn from q(z|x) is wanted by those who give a seed, or name it.
    drawn = UNIFORMS in program.inputs or PosteriorDraw.possible(program)
    certain = tuple(port for port in usual if not (port.meaning == LATENT and drawn))
    return Signature(
        draws=draws,
        classes=program.label_count if LABEL in program.inputs else 0,
        inputs={port.name: port for port in inputs},
        outputs={port.name: port for port in outputs},
        default=Outputs.of(certain or usual),
        default_seeded=Outputs.of(usual),
        limit=None if draws else DrawLimit.of(program),
    )


def _unused(name: str, ports: Sequence[Port]) -> str:
    """A name for a tensor that no graph has: this one, unless a graph has another of that name."""
    while any(port.name == name for port in ports):
        name += "_"
    return name


def _of(tensor: bundle_pb2.TensorSpec, program: Program) -> Port:
    most: float | None = None
    if tensor.meaning == LABEL:
        most = program.label_count - 1
    elif tensor.meaning == TEMPERATURE:
        most = convert.MAX_TEMPERATURE
    return _port(tensor.name, tensor.meaning, tensor.dtype, tuple(tensor.shape), most)


def _port(name: str, meaning: Meaning, dtype: int, shape: tuple[int, ...], most: float | None = None) -> Port:
    size, datatype = prod(shape) * DTYPES[dtype].itemsize, DATATYPES[dtype]
    described = oip.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=(1, *shape))
    return Port(name, meaning, datatype, DTYPES[dtype], shape, size, most, described)
