"""What a model can do, a file a role: how its requests are read and its replies written.

A role object is made for each role of a version when that is loaded, and kept with it: what depends on the model alone
is found out once, and a request costs a few comparisons. The method of the service, the stream and the Open Inference
Protocol all use the same object.

A new role is a message and a method in the proto, a file here with a class of its NAME, METHOD and NEEDS, and its class
among `SERVICE_ROLES` below: the method of the service is made of that.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.endpoint import TakesOneShots, TakesRasters
from ancestral_server.rpc.recording import current
from ancestral_server.rpc.roles.base import OneShotRole, Role, Served, ServiceRole
from ancestral_server.rpc.roles.classify import Classify
from ancestral_server.rpc.roles.decode import Decode
from ancestral_server.rpc.roles.encode import Encode
from ancestral_server.rpc.roles.features import Features
from ancestral_server.rpc.roles.sample import Sample, one_shot_sample, raster_sample
from ancestral_server.rpc.roles.score import Score
from ancestral_server.runtime.program import Needs, OneShotProgram, RasterProgram
from ancestral_server.settings import Settings

R = TypeVar("R", bound=Role)

# The one-shot roles that a method of our service asks for, beside Sample, which has methods of its own; any other is
# asked for by the Open Inference Protocol alone.
SERVICE_ROLES: tuple[type[ServiceRole[Any, Any]], ...] = (Encode, Decode, Features, Score, Classify)
_BY_NAME = {kind.NAME: kind for kind in SERVICE_ROLES}


class RoleMaker:
    """Makes the role objects of versions that are being loaded, for the catalog; see `catalog.version.RoleMaker`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def needs(self, role: str) -> Needs:
        """The tensors that a one-shot role of that name must have."""
        if role == Sample.NAME:
            return Sample.NEEDS
        return _BY_NAME.get(role, OneShotRole).NEEDS

    def one_shot(self, model: ModelVersion, program: OneShotProgram, endpoint: TakesOneShots) -> Role:
        """The object of a one-shot role."""
        served = Served.of(model, self._settings)
        if program.role.name == Sample.NAME:
            return one_shot_sample(served, program, endpoint)
        return _BY_NAME.get(program.role.name, OneShotRole)(served, program, endpoint)

    def raster(self, model: ModelVersion, program: RasterProgram, endpoint: TakesRasters) -> Role:
        """The object of a raster role, which is a sampler's."""
        return raster_sample(Served.of(model, self._settings), program, endpoint)


def role_of(model: ModelVersion, kind: type[R], field: str = "model") -> R:
    """The role of a model that a kind of call asks for; RoleMissing if the model cannot do that. `field` is where the
    request names it.
    """
    role = model.roles.get(kind.NAME)
    if isinstance(role, kind):
        current.get().subject = role.subject
        return role
    raise model.missing(kind.NAME, field)


def role_at(model: ModelVersion, name: str) -> Role:
    """The role of that name, which the model has."""
    role = model.roles[name]
    assert isinstance(role, Role), "whoever serves calls has made the catalog's roles"
    current.get().subject = role.subject
    return role
