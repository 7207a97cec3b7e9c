"""What requests say beside their id and their elements: the same of many, so it is checked once.

Clients number their requests and send other images with each; all else stays. To read and check that takes Python
longer than anything else that it does for a call.

Letters: N rows of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ReferenceType, ref

from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.oneshot import ENVELOPE_BYTES
from ancestral_server.rpc.open_inference import names, parameters, tensors
from ancestral_server.rpc.open_inference.parameters import Parameters
from ancestral_server.rpc.open_inference.signature import LABEL, LATENT, UNIFORMS, signature
from ancestral_server.rpc.open_inference.tensors import Input
from ancestral_server.rpc.repeats import MOST_OTHER_BYTES, make_room
from ancestral_server.runtime.program import Meaning, RasterProgram
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip

# Plans that are kept, and requests that may come again.
MOST_PLANS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a request asks of a model version, checked: all but the elements of its tensors."""

    # Not to keep one that has been unloaded.
    model: ReferenceType[ModelVersion]
    role: str
    rows: int
    inputs: Sequence[Input]
    wanted: Sequence[Meaning]
    parameters: Parameters
    # The images do not lie in the request: they are drawn, of this class, 0 where there are none.
    draws: bool
    label: int
    # They are painted row by row.
    raster: bool
    # Shape of the noise of a row, where a one-shot role needs any for what is wanted.
    noise: tuple[int, ...] | None
    # The reply, without its id and the elements.
    reply: oip.ModelInferResponse


class Plans:
    """Plans of requests that came a second time: others, such as those with a seed each, never do."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._plans: dict[bytes, Plan] = {}
        self._once: dict[bytes, None] = {}
        # The catalog's, when the plans were made: with it they lose their meaning.
        self._changes = catalog.changes

    def find(self, request: oip.ModelInferRequest, *, raw: bool) -> tuple[Plan, ModelVersion]:
        """The plan of a request without id and raw elements, and the model that it is about; raw: whether it had any
        such elements.
        """
        if not raw:
            # Its elements are among the rest, and make it unlike any other.
            return self._make(request, raw=False)
        if self._changes != self._catalog.changes:
            self._plans.clear()
            self._changes = self._catalog.changes
        key = request.SerializeToString()
        plan = self._plans.get(key)
        # As long as the catalog is the same, there is the model.
        model = None if plan is None else plan.model()
        if plan is None or model is None:
            plan, model = self._make(request, raw=True)
            self._remember(key, plan)
        return plan, model

    def _remember(self, key: bytes, plan: Plan) -> None:
        if len(key) > MOST_OTHER_BYTES:
            return
        if key in self._once:
            del self._once[key]
            make_room(self._plans, MOST_PLANS)
            self._plans[key] = plan
        else:
            make_room(self._once, MOST_PLANS)
            self._once[key] = None

    def _make(self, request: oip.ModelInferRequest, *, raw: bool) -> tuple[Plan, ModelVersion]:
        """Check every field."""
        fields = "model_name", "model_version"
        model, role = names.find(self._catalog, request.model_name, request.model_version, fields=fields)
        program, settings = model.programs[role], self._settings
        known = signature(program)
        asked = parameters.read(request.parameters)
        label = 0
        if known.draws:
            classes = program.label_count if LABEL in program.inputs else 0
            label = convert.sample_label("parameters[label]", asked.label, classes)
        elif asked.temperature is not None or asked.label is not None:
            name = "label" if asked.temperature is None else "temperature"
            raise InvalidArgument(f"parameters[{name}]", f"is set, must be unset: {role} takes no such parameter")
        limit = convert.Limit.of(settings, "max_sample_count" if known.draws else "max_images")
        inputs = tensors.described(request, known, limit, program.label_count, raw=raw)
        ports = tensors.wanted(request, known, seeded=asked.seed is not None)
        wanted = [port.meaning for port in ports]
        rows = inputs[0].shape[0]
        row_bytes = sum([port.bytes for port in ports])
        convert.reply_size("inputs[0].shape", rows, row_bytes, settings.max_message_bytes - ENVELOPE_BYTES)
        # An encoder's moments do not depend on its noise, which costs more to draw than they do.
        noisy = UNIFORMS in program.inputs and (LATENT in wanted or LATENT not in program.outputs)
        reply = oip.ModelInferResponse(model_name=request.model_name, model_version=str(model.version))
        for port in ports:
            reply.outputs.add(name=port.name, datatype=port.datatype, shape=(rows, *port.shape))
        plan = Plan(
            model=ref(model),
            role=role,
            rows=rows,
            inputs=inputs,
            wanted=wanted,
            parameters=asked,
            draws=known.draws,
            raster=isinstance(program, RasterProgram),
            label=label,
            noise=tuple(program.inputs[UNIFORMS].shape) if noisy else None,
            reply=reply,
        )
        return plan, model
