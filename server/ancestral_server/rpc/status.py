"""The single table from errors to gRPC status codes and google.rpc details."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ancestral_server.errors import (
    BundleRefused,
    DeadlineExceeded,
    Infeasible,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfMemory,
    Overloaded,
    RoleMissing,
    ServerError,
    Stopping,
    Unavailable,
)

DOMAIN = "ancestral"

CODES: dict[type[ServerError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    RoleMissing: grpc.StatusCode.UNIMPLEMENTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OutOfMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Infeasible: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Stopping: grpc.StatusCode.UNAVAILABLE,
    BundleRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Internal: grpc.StatusCode.INTERNAL,
}


def status(error: ServerError, request_id: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Code, message and trailing metadata of an error."""
    code = CODES[type(error)]
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    trailers: list[tuple[str, str | bytes]] = []
    match error:
        case InvalidArgument():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.problem)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case Infeasible():
            violation = error_details_pb2.BadRequest.FieldViolation(field="deadline", description=str(error))
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case RoleMissing():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
            details.append(_resource(error.resource, str(error)))
        case Stopping():
            # No pushback: the caller's own first delay gives its balancer the time to turn to another server.
            details.append(_retry(error.retry_seconds))
        case Unavailable():
            details.append(_resource(error.resource, str(error)))
            if error.retry_seconds is not None:
                details.append(_retry(error.retry_seconds))
        case NotFound():
            details.append(_resource(error.resource, str(error)))
        case BundleRefused():
            subject = f"{error.resource}/{error.file}"
            broken = error_details_pb2.PreconditionFailure.Violation(
                type="BUNDLE", subject=subject, description=error.problem
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[broken]))
        case Overloaded():
            details.append(_retry(error.retry_seconds))
            trailers.append(("grpc-retry-pushback-ms", str(math.ceil(error.retry_seconds * 1000))))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    rich = status_pb2.Status(code=code.value[0], message=str(error), details=packed)
    trailers.append(("grpc-status-details-bin", rich.SerializeToString()))
    return code, str(error), tuple(trailers)


def camel_case(code: grpc.StatusCode) -> str:
    """`DEADLINE_EXCEEDED` as the Go family and its dashboards write it: `DeadlineExceeded`."""
    if code is grpc.StatusCode.OK:
        return "OK"
    # gRPC's own spelling drops an l: CANCELLED is Canceled in Go.
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


def _retry(seconds: float | None) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int((seconds or 0.0) * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _resource(name: str, description: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type="model", resource_name=name, description=description)
