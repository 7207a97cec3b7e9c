"""A server that lives in the test's process: its models, what it was asked, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2 as models_pb
from ancestral.v1 import timing_pb2
from ancestral_client import _channel
from ancestral_client._rpcs import Rpc
from ancestral_client.client import AsyncClient, Client
from ancestral_client.errors import AncestralError, DeadlineExceeded, NotFound, Unavailable, invalid
from ancestral_client.testing import status
from ancestral_client.testing.answers import Answering, Limits, described, missing
from ancestral_client.testing.toys import ToyModel
from ancestral_client.testing.transport import FakeTransport

# What a client calls the calls of the wire, and the role that each needs.
_NAMES = {
    "Sample": ("sample", "sample"),
    "SampleStream": ("sample_stream", "sample"),
    "Encode": ("encode", "encode"),
    "EncodeStream": ("encode_stream", "encode"),
    "Decode": ("decode", "decode"),
    "ExtractFeatures": ("features", "features"),
    "Classify": ("classify", "classify"),
    "Score": ("score", "score"),
    "ScoreStream": ("score_stream", "score"),
    "ListModels": ("models", ""),
    "GetModel": ("model", ""),
    "LoadModel": ("load", ""),
    "UnloadModel": ("unload", ""),
}
_CALLS = tuple(name for name, _ in _NAMES.values())
_TOYS = (
    ToyModel("toy-pixelcnn", roles=("sample", "score", "features")),
    ToyModel("toy-vae", roles=("sample", "encode", "decode", "score", "features"), exact=False),
    ToyModel("toy-classifier", roles=("classify", "features")),
    ToyModel("toy-conditional", roles=("sample", "score", "features"), label_count=3),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that came."""

    call: str
    """As the client's method is called: "encode", "encode_stream", "models" and so on."""
    model: str
    """"" of calls about no model, and of a stream that came to no message."""
    request_id: str
    seconds: float | None
    """Until its deadline; None where it has none."""


@dataclass(slots=True)
class _Failure:
    """`times` None: until `heal`."""

    error: AncestralError
    call: str | None
    times: int | None
    after: int
    message: int | None


class FakeServer:
    """A server of toy models, for clients in the same process. May be shared by threads and by event loops.

    Without `models` it has four: "toy-pixelcnn" (sample, score, features), "toy-vae" (also encode, decode; its score is
    a bound), "toy-classifier" (classify, features) and "toy-conditional" (three classes). Images are 8×8×1.

    `seconds` is how long each call and each answer of a stream takes, on the server's own clock: that and the pauses
    between attempts pass at once, and deadlines are held against it. `now` tells it, `calls` what was asked.
    """

    def __init__(
        self,
        *models: ToyModel,
        seconds: float = 0.0,
        max_sample_count: int = 1024,
        max_images: int = 1024,
        max_message_bytes: int = _channel.MAX_MESSAGE_BYTES,
    ) -> None:
        self.seconds = seconds
        self.now = 0.0
        """Seconds since the server was made."""
        self.calls: list[Asked] = []
        """In the order in which they came, refused ones and each attempt among them."""
        self._limits = Limits(max_sample_count, max_images, max_message_bytes)
        self._models = {(model.name, model.version): model for model in models or _TOYS}
        self._unloaded: set[tuple[str, int]] = set()
        self._failures: list[_Failure] = []
        self._lock = threading.RLock()
        self._admin: dict[str, Callable[[Any], Any]] = {
            "models": self._list,
            "model": self._describe_one,
            "load": self._load,
            "unload": self._unload,
        }

    def client(self, address: str = "localhost:8500", **options: Any) -> Client:
        """A Client of this server; `options` are a Client's. May stand in for the class: `monkeypatch.setattr(app,
        "Client", server.client)`.
        """
        return Client(address, transport=self._transport(awaits=False), **options)

    def async_client(self, address: str = "localhost:8500", **options: Any) -> AsyncClient:
        """As `client`, for asyncio."""
        return AsyncClient(address, transport=self._transport(awaits=True), **options)

    def add(self, model: ToyModel) -> None:
        """Serves another model, or another version of one; the highest answers who names none."""
        with self._lock:
            self._models[model.name, model.version] = model
            self._unloaded.discard((model.name, model.version))

    def fail(
        self,
        error: AncestralError,
        *,
        call: str | None = None,
        times: int | None = 1,
        after: int = 0,
        message: int | None = None,
    ) -> None:
        """Has the next calls fail.

        `call` is the client's method, "encode" or "encode_stream" and so on; None: any. `times` is how many calls fail,
        attempts that the client makes by itself among them; None: all, until `heal`. A stream fails `after` so many
        answers; or goes on, and answers the `message` of that index, from 0, with the error.

        >>> server.fail(Overloaded("busy", retry_after=2.0), call="encode", times=3)  # doctest: +SKIP
        """
        if call is not None and call not in _CALLS:
            raise ValueError(f"call: is {call!r}; must be one of {', '.join(_CALLS)}")
        with self._lock:
            self._failures.append(_Failure(error, call, times, after, message))

    def stop(self) -> None:
        """From now on nothing answers, as where a server was killed; `heal` starts it again."""
        self.fail(Unavailable("the fake server is stopped", connected=False), times=None)

    def heal(self) -> None:
        """No call fails any more, but for its own faults."""
        with self._lock:
            self._failures.clear()

    def pass_time(self, seconds: float) -> None:
        """Lets time pass on the server's clock."""
        with self._lock:
            self.now += seconds

    def _transport(self, *, awaits: bool) -> Callable[..., FakeTransport]:
        def make(*_: Any, **__: Any) -> FakeTransport:
            return FakeTransport(self, awaits=awaits)

        return make

    # ---- what its transports ask

    def answer(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        """The reply to a call with one; raises what gRPC would."""
        call, role = _NAMES[rpc.method]
        with self._lock:
            asked = self._begun(call, getattr(request, "model", "") or getattr(request, "name", ""), options)
            failure = self._failure(call)
            self._take(self.seconds, asked, self.now)
            try:
                if failure is not None:
                    raise failure.error
                if role:
                    return getattr(self._answering(request, asked, role), call)(request)
                return self._admin[call](request)
            except AncestralError as error:
                raise status.failed(error, asked.request_id) from None

    def stream(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> Iterator[Any]:
        """The replies of a stream; raises what gRPC would. `requests` is one message, or an iterator of them."""
        call, role = _NAMES[rpc.method]
        several = call != "sample_stream"
        asked = self._begun(call, "" if several else requests.sample.model, options)
        failure = self._failure(call)
        answers = self._messages(requests, asked, role, failure) if several else self._samples(requests, asked)
        answered, since = 0, self.now
        try:
            while True:
                if failure is not None and failure.message is None and answered == failure.after:
                    raise failure.error
                reply = next(answers, None)
                if reply is None:
                    return
                # A stream's deadline is that of all its answers; one that is for the next begins anew with each call.
                self._take(self.seconds, asked, since)
                yield reply
                answered += 1
        except AncestralError as error:
            raise status.failed(error, asked.request_id) from None

    def _samples(self, request: pb.SampleStreamRequest, asked: Asked) -> Iterator[Any]:
        yield from self._answering(request.sample, asked, "sample", "sample.").sample_stream(request)

    def _messages(self, messages: Any, asked: Asked, role: str, failure: _Failure | None) -> Iterator[Any]:
        """An answer for each message, in order, an error included."""
        kind = pb.EncodeStreamResponse if role == "encode" else pb.ScoreStreamResponse
        bound: tuple[str, int] = ("", 0)
        for index, message in enumerate(messages):
            request = getattr(message, role)
            request.model, request.version = request.model or bound[0], request.version or bound[1]
            try:
                if failure is not None and failure.message == index:
                    raise failure.error
                answering = self._answering(request, asked, role, f"{role}.")
                bound = (answering.model.name, answering.model.version)
                reply = kind(index=index, **{role: getattr(answering, role)(request)})
            except AncestralError as error:
                refused = status.status_of(error, asked.request_id).SerializeToString()
                reply = kind(index=index, error=pb.MessageError.FromString(refused))
            yield reply

    def _begun(self, call: str, model: str, options: dict[str, Any]) -> Asked:
        identity = dict(options.get("metadata") or ()).get("x-request-id", "")
        with self._lock:
            self.calls.append(Asked(call, model, identity, options.get("timeout")))
            return self.calls[-1]

    def _failure(self, call: str) -> _Failure | None:
        """What the call is to fail with, which counts it."""
        with self._lock:
            for failure in self._failures:
                if failure.call in (None, call) and failure.times != 0:
                    failure.times = None if failure.times is None else failure.times - 1
                    return failure
        return None

    def _take(self, seconds: float, asked: Asked, since: float) -> None:
        """Lets a call take its time; DeadlineExceeded, at its deadline, if that is less."""
        with self._lock:
            ends = None if asked.seconds is None else since + asked.seconds
            if ends is not None and self.now + seconds > ends:
                self.now = max(self.now, ends)
                raise status.failed(DeadlineExceeded("Deadline Exceeded"), asked.request_id)
            self.now += seconds

    def _answering(self, request: Any, asked: Asked, role: str, prefix: str = "") -> Answering:
        model = self._found(request.model, request.version)
        if (model.name, model.version) in self._unloaded:
            raise Unavailable(f"model {model.name} (version {model.version}) does not serve", reason="NOT_SERVING")
        if role not in model.roles:
            raise missing(model, role)
        info = timing_pb2.ReplyInfo(request_id=asked.request_id, model=model.name, version=model.version)
        info.timing.compute_seconds = info.timing.total_seconds = self.seconds
        return Answering(model, self._limits, info, prefix)

    def _found(self, name: str, version: int) -> ToyModel:
        if not name:
            raise invalid("model", "is empty, must be the name of a model")
        versions = {number for other, number in self._models if other == name}
        if not versions:
            there = ", ".join(sorted({other for other, _ in self._models}))
            raise NotFound(f"no model {name!r}; there are: {there}", resource=name)
        if version and version not in versions:
            there = ", ".join(map(str, sorted(versions)))
            raise NotFound(f"model {name} has no version {version}; it has {there}", resource=f"{name}:{version}")
        served = {number for number in versions if (name, number) not in self._unloaded}
        return self._models[name, version or max(served or versions)]

    def _describe(self, model: ToyModel) -> models_pb.Model:
        return described(model, self._limits, serving=(model.name, model.version) not in self._unloaded)

    def _list(self, request: models_pb.ListModelsRequest) -> models_pb.ListModelsResponse:
        return models_pb.ListModelsResponse(models=[self._describe(self._models[key]) for key in sorted(self._models)])

    def _describe_one(self, request: models_pb.GetModelRequest) -> models_pb.GetModelResponse:
        return models_pb.GetModelResponse(model=self._describe(self._found(request.name, request.version)))

    def _load(self, request: models_pb.LoadModelRequest) -> models_pb.LoadModelResponse:
        self._found(request.name, request.version)
        version = request.version or max(number for name, number in self._models if name == request.name)
        self._unloaded.discard((request.name, version))
        return models_pb.LoadModelResponse(model=self._describe(self._models[request.name, version]))

    def _unload(self, request: models_pb.UnloadModelRequest) -> models_pb.UnloadModelResponse:
        self._found(request.name, request.version)
        self._unloaded |= {key for key in self._models if key[0] == request.name and request.version in (0, key[1])}
        return models_pb.UnloadModelResponse()
