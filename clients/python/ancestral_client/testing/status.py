"""Exceptions of a client as the statuses that a server sends, so that the client makes the same exceptions of them."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ancestral_client import errors

_CODES: dict[type[errors.AncestralError], tuple[grpc.StatusCode, str]] = {
    errors.MessageTooLarge: (grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
    errors.InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    errors.NotFound: (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    errors.RoleNotSupported: (grpc.StatusCode.UNIMPLEMENTED, "ROLE_NOT_SUPPORTED"),
    errors.Unimplemented: (grpc.StatusCode.UNIMPLEMENTED, ""),
    errors.Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"),
    errors.PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_GRANTED"),
    errors.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    errors.BundleRefused: (grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_REFUSED"),
    errors.DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    errors.Unavailable: (grpc.StatusCode.UNAVAILABLE, ""),
    errors.Cancelled: (grpc.StatusCode.CANCELLED, ""),
    errors.ServerFault: (grpc.StatusCode.INTERNAL, "RUN_FAILED"),
}


class Failed(grpc.RpcError):
    """A call that ended with a status, as gRPC raises it."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self._code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        self._details: str = status.message
        self._trailers: Any = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def failed(error: errors.AncestralError, request_id: str) -> Failed:
    """A call that ends with an error."""
    return Failed(status_of(error, request_id))


def status_of(error: errors.AncestralError, request_id: str) -> status_pb2.Status:
    """An error as a server of ours says it."""
    code, usual = next(found for kind, found in _CODES.items() if isinstance(error, kind))
    reason, text, details = error.reason or usual, error.message, list[Message]()
    match error:
        case errors.MessageTooLarge():
            reason, text = (
                "",
                f"Received message larger than max: {text}",
            )  # gRPC's own words: no server of ours says it
        case errors.InvalidArgument():
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.problem)
                for v in error.violations
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        case errors.NotFound():
            details.append(error_details_pb2.ResourceInfo(resource_type="model", resource_name=error.resource))
        case errors.Overloaded() if error.retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
            details.append(retry)
        case errors.Unavailable() if not error.connected:
            reason, text = "", f"failed to connect: Connection refused ({text})"
    if reason:
        details = [
            error_details_pb2.ErrorInfo(reason=reason, domain="ancestral"),
            *details,
            error_details_pb2.RequestInfo(request_id=request_id),
        ]
    packed: list[Any] = []
    for detail in details if reason else ():
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=text, details=packed)
