"""The single table from errors to gRPC status codes and google.rpc details."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.errors import (
    BundleRefused,
    DeadlineExceeded,
    DeviceLost,
    Drained,
    Infeasible,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfMemory,
    Overloaded,
    PermissionDenied,
    PortShared,
    QuotaExceeded,
    RoleMissing,
    ServerError,
    Stopping,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "ancestral"
# Of each text of an error. Clients refuse more than 8 KiB of metadata, and there are up to six texts in there.
MOST_BYTES = 800
# The longest delay that is told, 24 days: a pushback of gRPC has 32 bits of milliseconds, and a Duration ends, too.
LONGEST_RETRY_SECONDS = (2**31 - 1) // 1000

CODES: dict[type[ServerError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    RoleMissing: grpc.StatusCode.UNIMPLEMENTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OutOfMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Infeasible: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Stopping: grpc.StatusCode.UNAVAILABLE,
    DeviceLost: grpc.StatusCode.UNAVAILABLE,
    BundleRefused: grpc.StatusCode.FAILED_PRECONDITION,
    PortShared: grpc.StatusCode.FAILED_PRECONDITION,
    Drained: grpc.StatusCode.UNAVAILABLE,
    Internal: grpc.StatusCode.INTERNAL,
}


def brief(text: str) -> str:
    """What fits beside others into the 8 KiB of metadata that a client takes, where an error goes; and can be sent."""
    if text.isascii() and len(text) <= MOST_BYTES:
        return text
    kept: list[str] = []
    room = MOST_BYTES
    for letter in text.encode(errors="replace").decode():
        # As gRPC sends a message: percent-encoded.
        room -= 1 if letter.isascii() and letter.isprintable() and letter != "%" else 3 * len(letter.encode())
        if room < 0:
            return "".join(kept) + f"... ({len(text)} characters)"
        kept.append(letter)
    return "".join(kept)


def status(error: ServerError, request_id: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Code, message and trailing metadata of an error that ends a call."""
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", rich(error, request_id).SerializeToString())]
    delay = _retry_seconds(error)
    # None for a server that ends: the caller's own first delay gives its balancer the time to turn to another one.
    if delay is not None and not isinstance(error, Stopping):
        trailers.append(("grpc-retry-pushback-ms", str(math.ceil(delay * 1000))))
    return CODES[type(error)], brief(str(error)), tuple(trailers)


def rich(error: ServerError, request_id: str) -> status_pb2.Status:
    """An error with its google.rpc details."""
    message = brief(str(error))
    about = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    details: list[Message] = [about]
    match error:
        case InvalidArgument():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=brief(error.field), description=brief(error.problem)
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case Infeasible():
            violation = error_details_pb2.BadRequest.FieldViolation(field="deadline", description=message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case RoleMissing():
            violation = error_details_pb2.BadRequest.FieldViolation(field=brief(error.field), description=message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
            details.append(_resource(error.resource, message))
        case Unavailable() if error.resource:
            details.append(_resource(error.resource, message))
        case NotFound():
            details.append(_resource(error.resource, message))
        case BundleRefused():
            subject = brief(f"{error.resource}/{error.file}")
            broken = error_details_pb2.PreconditionFailure.Violation(
                type="BUNDLE", subject=subject, description=brief(error.problem)
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[broken]))
        case QuotaExceeded():
            quota = error_details_pb2.QuotaFailure.Violation(subject=f"caller:{error.caller}", description=message)
            details.append(error_details_pb2.QuotaFailure(violations=[quota]))
            about.metadata["limit"] = error.limit
        case Drained():
            about.metadata["next_index"] = str(error.next_index)
    seconds = _retry_seconds(error)
    if seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=CODES[type(error)].value[0], message=message, details=packed)


def message_error(error: ServerError, request_id: str) -> pb.MessageError:
    """An error that ends one message of a stream and not the call."""
    return pb.MessageError.FromString(rich(error, request_id).SerializeToString())


def _retry_seconds(error: ServerError) -> float | None:
    """When to try again, where the server knows."""
    match error:
        case Overloaded() | Unavailable():
            return None if error.retry_seconds is None else min(error.retry_seconds, LONGEST_RETRY_SECONDS)
        case Drained():
            return 0.0  # another replica, or whoever comes after this one, answers at once
    return None


def camel_case(code: grpc.StatusCode) -> str:
    """`DEADLINE_EXCEEDED` as the Go family and its dashboards write it: `DeadlineExceeded`."""
    if code is grpc.StatusCode.OK:
        return "OK"
    # gRPC's own spelling drops an l: CANCELLED is Canceled in Go.
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


def _resource(name: str, description: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type="model", resource_name=brief(name), description=description)
