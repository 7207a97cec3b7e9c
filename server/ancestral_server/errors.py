"""What can go wrong, in words that know nothing of gRPC; `rpc/status.py` maps each kind to a status code.

ServerError
├── InvalidArgument      the caller's field, value and limit
├── NotFound             no such model or version
├── RoleMissing          the model cannot do that
├── Unauthenticated      nobody knows who calls
├── PermissionDenied     who calls may not do that
├── Overloaded           the queue is full: come back later
│   └── QuotaExceeded    the caller asks for more than it may
├── OutOfMemory          not even one image fits into memory now
├── DeadlineExceeded     the caller's time ran out before the work was done
├── Infeasible           the caller's time cannot suffice: refused before any work
├── Unavailable          the model does not serve (now)
│   ├── Stopping         the server is about to end: ask another
│   └── DeviceLost       the GPU failed while it served: the server ends
├── PortShared           other servers answer on the same port, and what was asked for would change this one alone
├── Drained              the server stops, and a stream ends before its end
├── BundleRefused        what lies in the model's folder is not fit to serve
└── Internal             our fault
StartupError             the server cannot start as asked; ends the process
Overdue                  a run was ended, since it went on for too long
BundleError              a bundle is not fit to serve; names the file
"""

from __future__ import annotations


class ServerError(Exception):
    """An error that a caller hears about. `reason` is UPPER_SNAKE, for programs."""

    reason = "INTERNAL"
    # Whose queue refused the call, "MODEL:VERSION ROLE"; empty where none did.
    lane = ""


class InvalidArgument(ServerError):
    """A field of the request is wrong.

    `field` is its path in the request message; `problem` says what the value was and what the limit is.
    """

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFound(ServerError):
    """There is no such model or version; `resource` is "name" or "name:version"."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, resource: str, message: str) -> None:
        super().__init__(message)
        self.resource = resource


class RoleMissing(ServerError):
    """The model has no such role; `field` of the request asked for it."""

    reason = "ROLE_NOT_SUPPORTED"

    def __init__(self, resource: str, message: str, field: str = "model") -> None:
        super().__init__(message)
        self.resource = resource
        self.field = field


class Overloaded(ServerError):
    """The lane's queue is full. `retry_seconds` is when a retry may fit."""

    reason = "QUEUE_FULL"

    def __init__(self, lane: str, problem: str, retry_seconds: float) -> None:
        super().__init__(f"{lane}: {problem}")
        self.lane = lane
        self.retry_seconds = retry_seconds


class QuotaExceeded(Overloaded):
    """A caller asks for more than its quota, of which `limit` names the part; others are not concerned."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, caller: str, limit: str, problem: str, retry_seconds: float) -> None:
        super().__init__(f"quota of {caller}", f"{limit}: {problem}", retry_seconds)
        self.caller = caller
        self.limit = limit
        self.problem = problem


class Unauthenticated(ServerError):
    """A call brought nothing by which the server knows who calls. It says nothing of what the server has."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PermissionDenied(ServerError):
    """A caller has no role that allows what it asks for, whatever it asks for it of."""

    reason = "ROLE_NOT_GRANTED"


class OutOfMemory(ServerError):
    """A run did not fit into memory; the caller hears of it only where one row alone does not.

    hopeless: it asked for more at once than there is of memory, however little others may use.
    """

    reason = "OUT_OF_MEMORY"

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class DeadlineExceeded(ServerError):
    """The deadline passed while the request waited or ran."""

    reason = "EXPIRED_IN_QUEUE"


class Infeasible(ServerError):
    """The deadline cannot be met, judged by measured costs. The message names it, what remains and what is needed."""

    reason = "DEADLINE_INFEASIBLE"

    def __init__(self, message: str, lane: str = "") -> None:
        super().__init__(message)
        self.lane = lane


class Unavailable(ServerError):
    """The model does not answer calls now. `retry_seconds` is when a retry may be answered, None if nobody knows."""

    reason = "NOT_SERVING"

    def __init__(self, resource: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.resource = resource
        self.retry_seconds = retry_seconds


class Stopping(Unavailable):
    """The server is about to end and takes no new calls; another one may answer at once."""

    reason = "STOPPING"

    def __init__(self) -> None:
        super().__init__("", "the server is shutting down", 0.0)


class DeviceLost(Unavailable):
    """The GPU, or what this process holds of it, is of no use any more: nothing that ran there has an answer, and the
    process ends.
    """

    reason = "DEVICE_LOST"

    def __init__(self, problem: str) -> None:
        super().__init__("", f"the GPU failed while it served, the server ends and has to be started again: {problem}")


class BundleRefused(ServerError):
    """A bundle that was to be loaded is not fit to serve; `file` is relative to its folder."""

    reason = "BUNDLE_REFUSED"

    def __init__(self, resource: str, file: str, problem: str) -> None:
        super().__init__(f"{resource} was refused: {problem}")
        self.resource = resource
        self.file = file
        self.problem = problem


class PortShared(ServerError):
    """What was asked for would change one of the servers that answer on the port, whichever it happened to reach."""

    reason = "PORT_SHARED"


class Drained(ServerError):
    """The server stops, and so does a stream: all below `next_index` was answered, go on from there elsewhere."""

    reason = "SERVER_DRAINING"

    def __init__(self, next_index: int) -> None:
        super().__init__(f"the server is stopping; what is below index {next_index} was answered, go on from there")
        self.next_index = next_index


class Internal(ServerError):
    """A run failed; the caller did nothing wrong."""

    reason = "RUN_FAILED"


class StartupError(Exception):
    """The server cannot start as asked."""


class Overdue(RuntimeError):
    """A run went on for longer than it may (`--load-seconds`), and was ended."""


class BundleError(Exception):
    """A bundle is not fit to serve. `file` is relative to the bundle's folder."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
