"""Which roles may call which method. What is not named here, as a method that was added, is for admin alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from ancestral_server.access.callers import Role

# Whoever may do anything at all may look at what there is.
_LOOK: frozenset[Role] = frozenset({"infer", "observe"})
_INFER: frozenset[Role] = frozenset({"infer"})
_OBSERVE: frozenset[Role] = frozenset({"observe"})
_HEALTH: frozenset[Role] = frozenset({"infer", "observe", "health"})
_REFLECT: frozenset[Role] = frozenset({"infer", "observe", "reflection"})

# By service and method; "" is any other of the service.
_RIGHTS: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "ancestral.v1.InferenceService": {"": _INFER},
    "ancestral.v1.ModelService": {"ListModels": _LOOK, "GetModel": _LOOK},
    "inference.GRPCInferenceService": {
        "ModelInfer": _INFER,
        "ModelStreamInfer": _INFER,
        "ServerLive": _HEALTH,
        "ServerReady": _HEALTH,
        "ModelReady": _HEALTH,
        "ServerMetadata": _LOOK,
        "ModelMetadata": _LOOK,
        "ModelConfig": _LOOK,
        "RepositoryIndex": _LOOK,
        "ModelStatistics": _OBSERVE,
    },
    # List names the models.
    "grpc.health.v1.Health": {"Check": _HEALTH, "Watch": _HEALTH, "List": _LOOK},
    "grpc.reflection.v1alpha.ServerReflection": {"": _REFLECT},
    "grpc.reflection.v1.ServerReflection": {"": _REFLECT},
}


@cache
def roles_of(path: str) -> frozenset[Role]:
    """The roles each of which may call "/package.Service/Method"."""
    _, service, method = path.split("/")
    methods = _RIGHTS.get(service, {})
    return methods.get(method, methods.get("", frozenset())) | {"admin"}
