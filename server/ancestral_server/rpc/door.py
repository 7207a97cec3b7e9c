"""The door: who calls, whether that one may, and how much. Every method of every service passes it.

Where nothing says who may call, methods that anybody may call pass by it, and there is nothing to be paid.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from ancestral_server.access import Access, Caller, Callers, Meter, Over
from ancestral_server.engine.job import Job
from ancestral_server.errors import PermissionDenied, QuotaExceeded, ServerError
from ancestral_server.metrics import CallerMetrics, Metrics
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.rights import roles_of


class Visit:
    """A call that was let in: what it takes is its caller's."""

    __slots__ = ("_meter", "_metrics", "_stream", "caller")

    def __init__(self, caller: str, meter: Meter, metrics: CallerMetrics, *, stream: bool) -> None:
        self.caller = caller
        self._meter = meter
        self._metrics = metrics
        self._stream = stream

    def check(self) -> None:
        """QuotaExceeded if the caller has had done more than it may: the next work of a long call waits, too."""
        over = self._meter.over(time.monotonic())
        if over is not None:
            raise _exceeded(self.caller, over)

    def admitted(self, job: Job) -> None:
        images = job.rows // job.draws
        self._metrics.images.inc(images)
        self._meter.worked(time.monotonic(), images=images)
        # However it ends: who does not stay for the answer has had it worked on nevertheless.
        job.future.add_done_callback(partial(self._charge, job))

    def leave(self) -> None:
        self._meter.leave(stream=self._stream)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def _charge(self, job: Job, _: object) -> None:
        if job.started:
            now = time.monotonic()
            # A run of several jobs is paid for by each with its share of the rows.
            share = min(1.0, job.rows / job.batch_size) if job.batch_size else 1.0
            seconds = ((job.finished or now) - job.started) * share
            self._metrics.compute_seconds.inc(seconds)
            self._meter.worked(now, seconds=seconds)


class Door:
    """Lets calls in by what `access` says now."""

    def __init__(self, access: Access, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics
        self._known: Callers | None = None
        self._meters: dict[str, tuple[Meter, CallerMetrics]] = {}
        if access.names_callers:
            # Their series are there at zero before the first call.
            self._learn(access.callers)

    def guards(self, path: str) -> bool:
        """Whether calls of a method have to pass; not, where anybody may make them and as many as they like."""
        return self._access.names_callers or not self._access.callers.anonymous.roles & roles_of(path)

    def enter(self, path: str, authorization: str | None, context: Context, *, stream: bool) -> Visit:
        """Let a call in; the visit has to be left. Unauthenticated, PermissionDenied or QuotaExceeded if it may not."""
        try:
            return self._enter(path, authorization, context, stream=stream)
        except ServerError as error:
            self._metrics.access.denied(error.reason)
            raise

    def _enter(self, path: str, authorization: str | None, context: Context, *, stream: bool) -> Visit:
        caller = self._access.identify(authorization, partial(_names, context))
        wanted = roles_of(path)
        if not caller.roles & wanted:
            raise self._refusal(path, caller, wanted, context)
        if self._access.callers is not self._known:
            self._learn(self._access.callers)
        meter, metrics = self._meters[caller.name]
        over = meter.enter(time.monotonic(), stream=stream)
        if over is not None:
            metrics.over_quota.inc()
            raise _exceeded(caller.name, over)
        metrics.calls.inc()
        return Visit(caller.name, meter, metrics, stream=stream)

    def _refusal(self, path: str, caller: Caller, wanted: Iterable[str], context: Context) -> ServerError:
        if caller is not self._access.callers.anonymous:
            has, needs = ", ".join(sorted(caller.roles)), " or ".join(sorted(wanted))
            return PermissionDenied(f"{caller.name} may not call {path}: that is for {needs}, and it is {has}")
        if self._access.names_callers:
            return self._access.stranger(_names(context))
        return PermissionDenied(
            f"{path} is for callers with the role admin, and this server names none; --callers does"
        )

    def _learn(self, callers: Callers) -> None:
        """Keep what those who stay have taken, and forget those who are gone."""
        now = time.monotonic()
        for name in self._meters.keys() - callers.all.keys():
            del self._meters[name]
            self._metrics.access.forget_caller(name)
        for name, caller in callers.all.items():
            if name not in self._meters:
                meter = Meter(caller.quota, now)
                self._meters[name] = meter, self._metrics.access.caller(name, partial(getattr, meter, "in_flight"))
            elif (meter := self._meters[name][0]).quota != caller.quota:
                meter.limit(caller.quota, now)
        self._known = callers


def authorization_of(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    """The header; of several the first, as of none that a caller sends there is a second."""
    for key, value in metadata or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _names(context: Context) -> list[str]:
    """Those of the certificate that a call came with: the alternative ones, or else the common one."""
    return [name.decode(errors="replace") for name in context.peer_identities() or ()]


def _exceeded(caller: str, over: Over) -> QuotaExceeded:
    return QuotaExceeded(caller, over.limit, over.problem, over.retry_seconds)
