"""One version of one model: its state, its lanes by role, and who uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Protocol

from ancestral.v1 import bundle_pb2
from ancestral_server.catalog.folder import Key, Stamp
from ancestral_server.catalog.placing import Form, Placed
from ancestral_server.engine.endpoint import Endpoint, TakesOneShots, TakesRasters
from ancestral_server.errors import RoleMissing
from ancestral_server.runtime import memory
from ancestral_server.runtime.program import Needs, OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Session


class State(Enum):
    """LOADING → SERVING → DRAINING → gone, or NOT_SERVING: refused at load, or unloaded on request."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    NOT_SERVING = "not serving"


class RoleMaker(Protocol):
    """Makes what calls see of the roles of a version that is being loaded, on the loader's thread. The catalog keeps it
    with the version, and knows nothing of it.
    """

    def needs(self, role: str) -> Needs:
        """The tensors that a one-shot role of that name must have."""

    def one_shot(self, model: ModelVersion, program: OneShotProgram, endpoint: TakesOneShots) -> object: ...

    def raster(self, model: ModelVersion, program: RasterProgram, endpoint: TakesRasters) -> object: ...


class NoRoles:
    """For a catalog that no calls come to."""

    def needs(self, role: str) -> Needs:
        return Needs()

    def one_shot(self, model: ModelVersion, program: OneShotProgram, endpoint: TakesOneShots) -> object:
        return None

    def raster(self, model: ModelVersion, program: RasterProgram, endpoint: TakesRasters) -> object:
        return None


NO_ROLES = NoRoles()


@dataclass(eq=False)
class ModelVersion:
    """Made and filled by the loader's thread; from then on it belongs to the event loop.

    A call holds what it uses: `with catalog.find(name, version) as model:` until its reply is packed. A version that
    is replaced or removed closes its lanes when nobody holds it any more.
    """

    name: str
    version: int
    state: State = State.LOADING
    stamp: Stamp = field(default_factory=Stamp)
    device: str = ""
    manifest: bundle_pb2.Bundle | None = None
    # What there is of it on each device.
    placed: Sequence[Placed] = ()
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    # What calls see of each role, made by whoever answers them: see `RoleMaker`.
    roles: dict[str, object] = field(default_factory=dict)
    # Why it does not serve; of one that serves, why what lies in its folder now was refused.
    problem: str = ""
    # The file that it was refused for, relative to its folder; empty if none is to blame.
    problem_file: str = ""
    # The problem may pass although no file changes: a shortage, a disk that does not answer.
    passing: bool = False
    # Somebody asked to have it unloaded.
    unloaded: bool = False
    users: int = 0
    _left: asyncio.Event | None = None

    @property
    def key(self) -> Key:
        return self.name, self.version

    @property
    def programs(self) -> Mapping[str, Program]:
        """Those on the first device; on others they are the same."""
        return self.placed[0].programs if self.placed else {}

    @property
    def forms(self) -> dict[str, Form]:
        """What runs each raster role; where, on all devices, separated by commas."""
        first = self.placed[0].forms if self.placed else {}
        return {
            role: replace(form, device=",".join(placed.forms[role].device for placed in self.placed))
            for role, form in first.items()
        }

    @property
    def sessions(self) -> list[Session]:
        """Those on all devices."""
        return [session for placed in self.placed for session in placed.sessions.values()]

    @property
    def serving(self) -> bool:
        return self.state is State.SERVING

    @property
    def healthy(self) -> bool:
        """Whether it serves and every lane takes calls: one that has failed does not until it begins anew."""
        return self.serving and all(endpoint.healthy for endpoint in self.endpoints.values())

    @property
    def refused(self) -> bool:
        return self.state is State.NOT_SERVING and not self.unloaded

    def missing(self, role: str, field: str = "model") -> RoleMissing:
        """The error that the model cannot do that, with what it can do; `field` is where the request names it."""
        return RoleMissing(
            self.name,
            f"model {self.name} (version {self.version}) has no role {role!r}; "
            f"it has {', '.join(sorted(self.endpoints))}",
            field,
        )

    def refused_anew(self, fresh: ModelVersion) -> None:
        """It goes on serving; what lies in its folder now was refused."""
        self.stamp = fresh.stamp
        self.problem, self.problem_file, self.passing = fresh.problem, fresh.problem_file, fresh.passing

    def without_lanes(self) -> ModelVersion:
        """What stands in its place once it is unloaded on request."""
        return ModelVersion(
            self.name,
            self.version,
            State.NOT_SERVING,
            self.stamp,
            manifest=self.manifest,
            problem=f"unloaded on request, until its files change or the server is started again; "
            f"`ancestral load {self.name}` (LoadModel) loads it",
            unloaded=True,
        )

    def __enter__(self) -> ModelVersion:
        self.users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.users -= 1
        if self._left is not None and not self.users:
            self._left.set()

    async def unused(self) -> None:
        """Wait until nobody holds it. To be asked for only once no call finds it any more."""
        if self.users:
            if self._left is None:
                self._left = asyncio.Event()
            await self._left.wait()

    def close(self) -> None:
        """Stop the lanes, end the sessions and return their memory. Blocks until running work ends."""
        if not self.endpoints and not self.placed:
            return
        for endpoint in self.endpoints.values():
            endpoint.close()
        for placed in self.placed:
            placed.close()
        self.endpoints, self.roles, self.placed = {}, {}, ()
        memory.give_back()
