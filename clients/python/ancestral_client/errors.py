"""What calls raise.

AncestralError             any call that failed; `request_id` is what the server logged it under
├── InvalidArgument        a value is wrong; found by the client or by the server (also a ValueError)
│   └── MessageTooLarge    the request or the reply is above the message limit: ask for fewer images, or use a stream
├── NotFound               no such model or version (also a LookupError)
├── Unimplemented          the server does not know the call, or cannot do it: another or an older one, one of several
│   └── RoleNotSupported   the model cannot do that: for example encode with a PixelCNN
├── Overloaded             the server has too much to do; `retry_after` says when to try again
├── Unauthenticated        the server does not know who calls: no token or a wrong one (also a PermissionError)
├── PermissionDenied       it knows, and that one may not do this (also a PermissionError)
├── BundleRefused          what should be loaded is not fit to serve
├── DeadlineExceeded       no answer in time (also a TimeoutError)
├── Unavailable            nothing answers there, or the model does not serve now (also a ConnectionError)
├── Cancelled              the call was cancelled
└── ServerFault            the server's fault; its log says more under `request_id`
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ancestral_client import _address, _proxies

_Detail = TypeVar("_Detail")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong value: the path of the field in the request, and what is wrong with it."""

    field: str
    problem: str


class AncestralError(Exception):
    """A call that failed."""

    def __init__(self, message: str, *, request_id: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        """The id that the server logged the call under; empty if it never reached a server."""
        self.reason = reason
        """UPPER_SNAKE, for programs; empty if the server gave none."""
        self.index: int | None = None
        """Which message of a stream it is about, counted from 0; None if it is about a call."""

    def of_message(self, index: int) -> Self:
        """The same error, about one message of a stream."""
        self.index = index
        self.message = f"message {index}: {self.message}"
        self.args = (self.message,)
        return self


class InvalidArgument(AncestralError, ValueError):
    """A value is wrong."""

    def __init__(
        self, message: str, *, violations: tuple[FieldViolation, ...] = (), request_id: str = "", reason: str = ""
    ) -> None:
        super().__init__(message, request_id=request_id, reason=reason)
        self.violations = violations


class MessageTooLarge(InvalidArgument):
    """The request or the reply is above the message limit."""


class NotFound(AncestralError, LookupError):
    """There is no such model or version."""

    def __init__(self, message: str, *, resource: str = "", request_id: str = "", reason: str = "") -> None:
        super().__init__(message, request_id=request_id, reason=reason)
        self.resource = resource
        """ "name" or "name:version"."""


class Unimplemented(AncestralError):
    """The server does not know the call, or cannot do it."""


class RoleNotSupported(Unimplemented):
    """The model cannot do that."""


class Overloaded(AncestralError):
    """The server has too much to do."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, request_id: str = "", reason: str = ""
    ) -> None:
        super().__init__(message, request_id=request_id, reason=reason)
        self.retry_after = retry_after
        """Seconds after which a retry may fit; None if the server did not say."""


class Unauthenticated(AncestralError, PermissionError):
    """The server does not know who calls: the call brought no token, or one that it does not know."""


class PermissionDenied(AncestralError, PermissionError):
    """The server knows who calls, and does not let that one do this."""


class BundleRefused(AncestralError):
    """What should be loaded is not fit to serve: the message names the file and the reason."""


class DeadlineExceeded(AncestralError, TimeoutError):
    """No answer in time."""


class Unavailable(AncestralError, ConnectionError):
    """Nothing answers there, or the model does not serve now."""

    def __init__(self, message: str, *, connected: bool = True, request_id: str = "", reason: str = "") -> None:
        super().__init__(message, request_id=request_id, reason=reason)
        self.connected = connected
        """Whether something was there: a server that says so, or a connection that broke."""


class Cancelled(AncestralError):
    """The call was cancelled."""


class ServerFault(AncestralError):
    """The server's fault."""


def invalid(field: str, problem: str) -> InvalidArgument:
    """The error for a value that the client itself finds wrong, before anything is sent."""
    return InvalidArgument(
        f"{field}: {problem}", violations=(FieldViolation(field, problem),), reason="INVALID_ARGUMENT"
    )


def from_rpc(error: grpc.RpcError, *, address: str, timeout: float, request_id: str) -> AncestralError:
    """The exception for a failed call to `address` that had `timeout` seconds."""
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name
    return _error(code, text, _details(error), address=address, timeout=timeout, request_id=request_id)


def from_status(status: status_pb2.Status) -> AncestralError:
    """The exception for one message of a stream."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, _unpacked(status), address="", timeout=0, request_id="")


def _error(
    code: grpc.StatusCode, text: str, details: list[object], *, address: str, timeout: float, request_id: str
) -> AncestralError:
    info = _find(details, error_details_pb2.ErrorInfo)
    reason = info.reason if info is not None else ""
    request = _find(details, error_details_pb2.RequestInfo)
    about: Any = {"request_id": request.request_id if request is not None else request_id, "reason": reason}

    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            bad = _find(details, error_details_pb2.BadRequest)
            found = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations) if bad else ()
            return InvalidArgument(text, violations=found, **about)
        case grpc.StatusCode.NOT_FOUND:
            resource = _find(details, error_details_pb2.ResourceInfo)
            return NotFound(text, resource=resource.resource_name if resource else "", **about)
        case grpc.StatusCode.UNIMPLEMENTED if reason:
            return RoleNotSupported(text, **about)
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(f"the server at {address} does not know this call ({text})", **about)
        # gRPC itself gives the same code to a message above the limit; only a server of ours gives a reason.
        case grpc.StatusCode.RESOURCE_EXHAUSTED if reason or "larger than max" not in text:
            retry = _find(details, error_details_pb2.RetryInfo)
            after = retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None
            return Overloaded(text, retry_after=after, **about)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return MessageTooLarge(_too_large(text), **about)
        case grpc.StatusCode.UNAUTHENTICATED:
            hint = "; give it one by token=, token_file= or ANCESTRAL_TOKEN" if reason == "CREDENTIALS_MISSING" else ""
            return Unauthenticated(f"{text}{hint}", **about)
        case grpc.StatusCode.PERMISSION_DENIED:
            return PermissionDenied(text, **about)
        case grpc.StatusCode.FAILED_PRECONDITION if reason == "BUNDLE_REFUSED":
            return BundleRefused(text, **about)
        case grpc.StatusCode.FAILED_PRECONDITION if reason == "PORT_SHARED":
            return Unimplemented(text, **about)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            # The server says more when it is the one that gave up; gRPC's own text is "Deadline Exceeded".
            more = "" if text == "Deadline Exceeded" else f" ({text})"
            return DeadlineExceeded(text if reason else f"no answer from {address} within {timeout:g} s{more}", **about)
        case grpc.StatusCode.UNAVAILABLE if reason:
            return Unavailable(text, **about)
        case grpc.StatusCode.UNAVAILABLE if (why := _of_tls(text)) is not None:
            return Unavailable(f"no connection to {address}: {why} ({text})", connected=False, **about)
        case grpc.StatusCode.UNAVAILABLE if _nothing_listens(text):
            return Unavailable(_no_connection(address, text), connected=False, **about)
        case grpc.StatusCode.UNAVAILABLE:
            # As it is where one side speaks TLS and the other does not, and where the server refuses a certificate.
            closed = "; does it speak TLS (tls=True), or want a certificate that it knows (tls_cert=)?"
            hint = closed if "socket closed" in text.lower() else ""
            return Unavailable(f"the server at {address} does not answer ({text}){hint}", **about)
        case grpc.StatusCode.CANCELLED:
            return Cancelled(text, **about)
        case _:
            return ServerFault(f"{code.name}: {text}", **about)


# What gRPC says where no connection was made: to a host, to a file, to a name, by a proxy.
_NOT_CONNECTED = (
    "failed to connect",
    "connection refused",
    "connect failed",
    "errors resolving",
    "resolution failed",
    "http proxy returned",
)


def _nothing_listens(text: str) -> bool:
    """Whether gRPC's own words for UNAVAILABLE mean that no connection was made."""
    lower = text.lower()
    return any(sign in lower for sign in _NOT_CONNECTED)


def _no_connection(address: str, text: str) -> str:
    """What to do about it, with gRPC's last words where they say more: they name the address or proxy that it tried."""
    nobody = any(sign in text.lower() for sign in ("connection refused", "no such file"))
    if nobody and address and _address.on_this_machine(address):
        return f"nothing listens at {address}; start a server with: make serve"
    proxy = next((name for name in _proxies.VARIABLES if os.environ.get(name)), None)
    hint = f"; {proxy} is set: should it go there without a proxy, name the host in no_proxy" if proxy else ""
    return f"no connection to {address} ({text}){hint}"


# What gRPC says where TLS is what hinders: signs in its words, and what they mean.
_TLS_PROBLEMS = (
    ("WRONG_VERSION_NUMBER", "the server there speaks no TLS, and this client does: tls=False, or --no-tls"),
    ("certificate has expired", "the server's certificate has expired: its owner has to renew it"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: is a clock wrong?"),
    ("Hostname Verification", "the server's certificate is of another name: tls_name= says which one to expect"),
    ("CERTIFICATE_VERIFY_FAILED", "nobody known here has signed the server's certificate: tls_ca= names who has"),
    ("CERTIFICATE_REQUIRED", "the server wants a certificate of the client's own: tls_cert= and tls_key="),
    ("CERTIFICATE_EXPIRED", "the server finds the client's certificate (tls_cert=) expired"),
    ("ALERT_UNKNOWN_CA", "the server does not know who signed the client's certificate (tls_cert=)"),
)


def _of_tls(text: str) -> str | None:
    """What TLS has against a connection, by gRPC's words; None where it has nothing, or these say nothing known."""
    return next((meaning for sign, meaning in _TLS_PROBLEMS if sign.lower() in text.lower()), None)


STREAMS = "encode_stream and score_stream cut an array into messages, sample_stream sends each image by itself"
"""What to do about a message that is too large."""


def _too_large(text: str) -> str:
    """What gRPC says in "SERVER: Received message larger than max (1200025 vs. 1048576)", and what to do about it."""
    sizes = re.search(r"\((\d+) vs\. (\d+)\)", text)
    found = f"a message of {sizes[1]} bytes is above the limit of {sizes[2]}" if sizes else "above the message limit"
    return f"{found}: send or ask for fewer images at once; {STREAMS} ({text})"


_KINDS = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.RequestInfo,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
)


def _details(error: grpc.RpcError) -> list[object]:
    """The google.rpc messages that came with an error; none where they cannot be read."""
    try:
        status = rpc_status.from_call(error)
        return _unpacked(status) if status is not None else []
    except (ValueError, DecodeError):
        return []  # they contradict the status or are garbled: not from a server of ours


def _unpacked(status: status_pb2.Status) -> list[object]:
    return [kind.FromString(packed.value) for packed in status.details for kind in _KINDS if packed.Is(kind.DESCRIPTOR)]


def _find(details: list[object], kind: type[_Detail]) -> _Detail | None:
    return next((detail for detail in details if isinstance(detail, kind)), None)
