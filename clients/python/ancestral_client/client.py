"""The two clients: one waits for its answers, the other is awaited. What their calls mean stands in `_calls.py`
and, a file a role, in `_roles`.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import wraps
from inspect import Parameter, signature
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from ancestral_client import _arguments, _channel, _composed
from ancestral_client._access import Access
from ancestral_client._arguments import Compression, Priority
from ancestral_client._calls import Calls, Settings
from ancestral_client._roles import classify as _classify
from ancestral_client._roles import decode as _decode
from ancestral_client._roles import encode as _encode
from ancestral_client._roles import features as _features
from ancestral_client._roles import sample as _sample
from ancestral_client._roles import score as _score
from ancestral_client._transport import Asyncio, Blocking, Transport, run
from ancestral_client.bulk import AsyncBulkStream, BulkStream
from ancestral_client.results import Encoding, Scores
from ancestral_client.stream import AsyncSampleStream, SampleStream

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Answers = TypeVar("_Answers")
_Method = TypeVar("_Method", bound=Callable[..., Any])


class _Configured:
    """What both clients are made with."""

    _transport: ClassVar[type[Blocking] | type[Asyncio]]

    def __init__(
        self,
        address: str = "localhost:8500",
        *,
        timeout: float = 60.0,
        retry_seconds: float = 30.0,
        hedge_seconds: float | None = None,
        priority: Priority = "interactive",
        bulk_priority: Priority = "batch",
        max_message_bytes: int = _channel.MAX_MESSAGE_BYTES,
        proxy: str | None = None,
        compression: Compression = "none",
        tls: bool | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        tls_name: str | None = None,
        token: str | None = None,
        token_file: str | PathLike[str] | None = None,
        transport: Callable[..., Transport] | None = None,
    ) -> None:
        _arguments.transport_of(transport)
        access = Access(tls, tls_ca, tls_cert, tls_key, tls_name, token, token_file)
        self._settings = Settings(
            address=address,
            timeout=timeout,
            retry_seconds=retry_seconds,
            hedge_seconds=hedge_seconds,
            priority=priority,
            bulk_priority=bulk_priority,
            max_message_bytes=max_message_bytes,
            proxy=proxy,
            compression=compression,
            access=access,
        )
        self._given_transport = transport
        self._calls = Calls(self._settings, transport or self._transport)

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._settings.address

    @property
    def timeout(self) -> float:
        """The deadline of calls that have none of their own, in seconds."""
        return self._calls.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._calls.timeout = seconds

    def __getstate__(self) -> dict[str, Any]:
        """What made it, for pickle and deepcopy: whoever gets it connects anew."""
        state = asdict(self._settings)
        access = state.pop("access")
        return {**state, **access, "timeout": self.timeout, "transport": self._given_transport}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _Configured.__init__(self, **state)


def _like(call: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Makes a method look like the call that it is made of, to whoever asks for help on it."""

    def decorator(method: _Method) -> _Method:
        of_call = signature(call)
        _, *arguments = of_call.parameters.values()
        wraps(call)(method)
        of_client = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        # The call takes the connection where the method has its client.
        vars(method)["__signature__"] = of_call.replace(parameters=[of_client, *arguments])
        return method

    return decorator


def _waiting(call: Callable[Concatenate[Calls, _P], Coroutine[Any, Any, _R]]) -> Callable[Concatenate[Any, _P], _R]:
    """A call of a client that waits."""

    @_like(call)
    def method(self: _Configured, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        return run(call(self._calls, *arguments, **options))

    return method


def _awaited(
    call: Callable[Concatenate[Calls, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]]:
    """A call of a client that is awaited."""

    @_like(call)
    async def method(self: _Configured, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        return await call(self._calls, *arguments, **options)

    return method


def _streaming(
    call: Callable[Concatenate[Calls, _P], _Answers], stream: Callable[[_Answers], _R]
) -> Callable[Concatenate[Any, _P], _R]:
    """A call whose answers come one by one, as a stream of this client."""

    @_like(call)
    def method(self: _Configured, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        return stream(call(self._calls, *arguments, **options))

    return method


class Client(_Configured):
    """Calls one Ancestral server, or several replicas behind one name. May be shared between threads.

    `timeout` is the deadline of every call in seconds, all its attempts together; each method takes another one for
    its call, and `math.inf` means none. A server that was there may be away, or too busy, for `retry_seconds`: calls
    are repeated until it answers, which changes nothing in what they return. One that never was there is asked for
    about a second.

    `hedge_seconds` is for several replicas behind one name: a call that has no answer after so long, best what all but
    one in twenty take at most, is asked for once more, and the first answer is the one. That is so of one call in ten
    at most, after ten to begin with: busy servers do not get twice as much to do. None: of no call. Loading, sampling
    and streams are never asked for twice.

    Images are uint8, 0 to 255: [N,H,W,C] or one image [H,W,C]; for a model with one channel also [N,H,W] and [H,W].
    Results always have the axis N. `version` 0 is the highest that is served. Class-conditional models, those whose
    `Model.label_count` is not 0, need labels to sample, score and extract features; others refuse them.

    `priority` is that of every call, `bulk_priority` that of the streams of encode and score. Interactive calls go
    first, and the server refuses one that would wait for long; "batch" takes what those leave over and may wait.

    `address` is HOST:PORT, or a target of gRPC such as dns:///replicas:8500. What is on this machine is reached without
    the proxy that `http_proxy` and the like may name, other hosts by it. `proxy` is another one, http://HOST:PORT, or
    "" for none; what `no_proxy` has is reached without any. `compression`, "gzip" or "deflate", is that of requests:
    for slow networks, since most images of a fast one are sent sooner than they are compressed.

    `tls` is whether to speak TLS: by default where one of the `tls_...` is given, or a token is and the server is not
    on this machine. `tls_ca` is a file of the certificates that the server's is signed by (default: those that gRPC
    brings), `tls_cert` and `tls_key` are files of the client's own (the key may be in the former), `tls_name` is the
    name that the server's certificate has where it is not that of `address`; all PEM. `token` says who calls, or the
    file that `token_file` names, which is read again when it has changed. What is not given is taken from the
    environment: ANCESTRAL_TLS, ANCESTRAL_TLS_CA and so on, ANCESTRAL_TOKEN, ANCESTRAL_TOKEN_FILE.

    A client can be pickled and copied, as joblib and scikit-learn do: the copy has the same settings, `token` among
    them (of a `token_file` only the name), and a connection of its own. A forked process should make its own: gRPC's
    threads stay behind.

    `transport` makes what stands in for a channel: see `ancestral_client.testing`, whose fake server needs no network.

    Numbers may be of numpy, arrays also tensors (taken off their device and their graph) and Pillow's pictures. What is
    no whole number where one is needed is refused, never cut.

    Every method raises an AncestralError (see `ancestral_client.errors`); a wrong value is an InvalidArgument, whether
    the client finds it or the server does.
    """

    _transport = Blocking

    close = _waiting(Calls.close)
    models = _waiting(Calls.models)
    model = _waiting(Calls.model)
    load = _waiting(Calls.load)
    unload = _waiting(Calls.unload)
    sample = _waiting(_sample.sample)
    complete = _waiting(_sample.complete)
    encode = _waiting(_encode.encode)
    decode = _waiting(_decode.decode)
    features = _waiting(_features.features)
    classify = _waiting(_classify.classify)
    score = _waiting(_score.score)
    reconstruct = _waiting(_composed.reconstruct)
    interpolate = _waiting(_composed.interpolate)
    traverse = _waiting(_composed.traverse)
    manifold = _waiting(_composed.manifold)
    sample_stream = _streaming(_sample.sample_stream, SampleStream)
    encode_stream = _streaming(_encode.encode_stream, BulkStream[Encoding])
    score_stream = _streaming(_score.score_stream, BulkStream[Scores])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Configured):
    """A Client for asyncio: the same names, arguments, results and errors, awaited.

    >>> async with AsyncClient("localhost:8500") as client:  # doctest: +SKIP
    ...     samples = await client.sample("digits-pixelcnn", 16, seed=7)
    ...     async for event in client.sample_stream("digits-pixelcnn", 16, seed=7):
    ...         ...

    Any number of tasks may share one. It connects at its first call, to the event loop that runs then; in another loop
    it connects anew. What goes wrong with the arguments of a stream is told at its first event, where only the model's
    shape can tell it. A task that is cancelled cancels its call on the server, too.
    """

    _transport = Asyncio

    close = _awaited(Calls.close)
    models = _awaited(Calls.models)
    model = _awaited(Calls.model)
    load = _awaited(Calls.load)
    unload = _awaited(Calls.unload)
    sample = _awaited(_sample.sample)
    complete = _awaited(_sample.complete)
    encode = _awaited(_encode.encode)
    decode = _awaited(_decode.decode)
    features = _awaited(_features.features)
    classify = _awaited(_classify.classify)
    score = _awaited(_score.score)
    reconstruct = _awaited(_composed.reconstruct)
    interpolate = _awaited(_composed.interpolate)
    traverse = _awaited(_composed.traverse)
    manifold = _awaited(_composed.manifold)
    sample_stream = _streaming(_sample.sample_stream, AsyncSampleStream)
    encode_stream = _streaming(_encode.encode_stream, AsyncBulkStream[Encoding])
    score_stream = _streaming(_score.score_stream, AsyncBulkStream[Scores])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
