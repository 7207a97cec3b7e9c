"""What the commands of `ancestral` share: their usual arguments, and what they say when they are done."""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from ancestral.text import shown
from ancestral_client import _access, _checks, errors, files, results, tracing
from ancestral_client.bulk import MESSAGE_SIZE, BulkStream
from ancestral_client.client import AsyncClient, Client
from ancestral_client.results import Encoding, Info, Model, Samples, Scores
from ancestral_client.terminal import console

TIMEOUT = 60.0
VARIABLE = "ANCESTRAL_ADDRESS"
# OpenTelemetry's own, which hold for all programs.
COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_P = ParamSpec("_P")
_Result = TypeVar("_Result", Encoding, Scores)
_Client = TypeVar("_Client", Client, AsyncClient)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model; `ancestral models` lists them.")]
ImageFile = Annotated[
    Path,
    typer.Argument(metavar="IMAGES", help="8-bit images: .npy or .npz ([N,H,W,C]; [N,H,W] for grey), or a picture."),
]
Version = Annotated[int, typer.Option(help="Version of the model; 0 is the highest that is served.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# How to be let in: each command takes them, and so does `ancestral` before the command. A token itself is no option:
# whoever lists the processes would read it.
CONNECTING: dict[str, Any] = {
    "tls": Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls", help="Speak TLS; by default where a --tls-... is given, or a token for another machine."
        ),
    ],
    "tls_ca": Annotated[str | None, typer.Option(metavar="FILE", help="Who signs the server's certificate, PEM.")],
    "tls_cert": Annotated[str | None, typer.Option(metavar="FILE", help="Certificate of your own, PEM.")],
    "tls_key": Annotated[str | None, typer.Option(metavar="FILE", help="Its key, if not in the same file.")],
    "tls_name": Annotated[
        str | None, typer.Option(metavar="NAME", help="Name in the server's certificate, if not that of --address.")
    ],
    "token_file": Annotated[
        str | None, typer.Option(metavar="FILE", help="File of the token that says who calls; or ANCESTRAL_TOKEN.")
    ],
}

Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the server listens.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the answer; inf: for ever.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same images; drawn if not given.")]
Temperature = Annotated[float | None, typer.Option(help="0: the most likely values; 1, the default: the model itself.")]
Label = Annotated[int | None, typer.Option(help="Class to draw from, of a class-conditional model.")]
Priority = Annotated[
    _checks.Priority, typer.Option(help="batch: take what interactive calls leave over, and wait for it; for bulk.")
]
BulkPriority = Annotated[
    _checks.Priority, typer.Option(help="interactive: do not stand back behind other calls, as bulk does by default.")
]
Labels = Annotated[
    str | None, typer.Option(metavar="CLASS|FILE", help="Class of all images, or a .npy file with one for each.")
]


def tell_version(wanted: bool) -> None:
    if wanted:
        print(f"ancestral {metadata.version('ancestral')}")
        raise typer.Exit


def trace(context: typer.Context, collector: str) -> None:
    """Have the command traced, to a collector that the variables of all programs name, or `--otlp` of this one."""
    source = context.get_parameter_source("otlp")
    asked = source is None or source.name != "ENVIRONMENT"
    if not asked and not (tracing.installed() and _by_otlp(os.environ)):
        return  # whoever set them need not have thought of this program
    # What does not arrive is told in one line, and not at each attempt.
    logger, handler = logging.getLogger("opentelemetry"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ancestral: the trace is lost: %(message)s"))
    handler.setLevel(logging.ERROR)
    logger.handlers[:], logger.propagate = [handler], False
    try:
        name = f"ancestral {context.invoked_subcommand}"
        trace_id = context.with_resource(tracing.traced(name, collector, os.environ))
    except errors.InvalidArgument as wrong:
        problem = wrong.violations[0].problem
        if asked:
            raise errors.invalid("--otlp", problem) from wrong
        variable = next(name for name in COLLECTORS if os.environ.get(name))
        print(f"ancestral: the command is not traced: {variable}: {problem}", file=sys.stderr)
        return
    if asked:
        print(f"ancestral: trace {trace_id}", file=sys.stderr)


def _by_otlp(environment: Mapping[str, str]) -> bool:
    """Whether the variables of all programs say that traces are sent as we do."""
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), "grpc")
    return protocol == "grpc" and environment.get("OTEL_TRACES_EXPORTER") in (None, "", "otlp")


def warn_of_near_variables(environment: Mapping[str, str]) -> None:
    """Say of a variable like ANCESTRAL_ADRESS that nobody reads it."""
    known = {VARIABLE, *_access.VARIABLES}
    for name in environment.keys() - known:
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            print(f"ancestral: {name} is not read; did you mean {near[0]}?", file=sys.stderr)


def connecting(command: Callable[_P, None]) -> Callable[_P, None]:
    """A command that takes the options of CONNECTING too. What stands after it wins over what stands before it."""
    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in CONNECTING.items()
    ]

    @wraps(command)
    def with_options(*arguments: _P.args, **options: _P.kwargs) -> None:
        given = {name: options.pop(name) for name in CONNECTING}
        context: Any = options["context"]
        before = context.meta.get(__name__, {})
        # Of this run of the command line, in which each context sees what those around it have set.
        context.meta[__name__] = {**before, **{name: value for name, value in given.items() if value is not None}}
        command(*arguments, **options)

    with_options.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    return with_options


def client(
    context: typer.Context,
    address: str | None,
    timeout: float,
    priority: _checks.Priority = "interactive",
    bulk_priority: _checks.Priority = "batch",
    retry_seconds: float = 30.0,
) -> Client:
    return _made(
        Client,
        context,
        address,
        timeout=timeout,
        retry_seconds=retry_seconds,
        priority=priority,
        bulk_priority=bulk_priority,
    )


def async_client(context: typer.Context, address: str | None, timeout: float, retry_seconds: float) -> AsyncClient:
    return _made(AsyncClient, context, address, timeout=timeout, retry_seconds=retry_seconds)


def _made(kind: type[_Client], context: typer.Context, address: str | None, **options: Any) -> _Client:
    """A client with these options and those of CONNECTING, whose faults are told by the names they have here."""
    name, address = context.obj if address is None else ("--address", address)
    address = _checks.address_of(address, name)
    given = context.meta.get(__name__, {})
    try:
        return kind(address, **options, **given)
    except errors.InvalidArgument as error:
        (violation,) = error.violations
        if violation.field not in given:
            raise
        raise errors.invalid(f"--{violation.field.replace('_', '-')}", violation.problem) from None


def told(error: Exception) -> str:
    """The message, and what helps after it: when to try again, and the id to look for in the server's log. One line."""
    return shown(_told(error))


def _told(error: Exception) -> str:
    if not isinstance(error, errors.AncestralError):
        return str(error)
    # How a file was cut into messages is nothing that its owner knows of.
    text = str(error).removeprefix(f"message {error.index}: ")
    if not error.reason or not error.request_id:
        return text  # it never reached a server of ours
    delay = error.retry_after if isinstance(error, errors.Overloaded) else None
    later = "" if delay is None else f"; try again in {delay:.1f} s"
    return f"{text}{later} [request {error.request_id}]"


@contextmanager
def wanting_labels(given: str | None) -> Iterator[None]:
    """Says how to give labels where none were, and the server finds fault with them."""
    try:
        yield
    except errors.InvalidArgument as error:
        if given is None and any(violation.field.split(".")[-1] == "labels" for violation in error.violations):
            problem = "not set; the model is class-conditional: --labels CLASS, or a .npy with one for each image"
            raise errors.invalid("labels", problem) from error
        raise


def images(asked: Client, model: str, version: int, path: Path) -> NDArray[np.uint8]:
    """The images of a file: of a picture as many channels as the model takes, of arrays what they are."""
    found = files.read_images(path)
    if files.is_array(path):
        return found
    return files.fit_channels(path, found, asked.model(model, version).image_shape[2])


def bits(model: Model) -> str:
    """The model's bits/dim on the test images; ≤ marks a bound."""
    metric = next((m for m in model.metrics if m.unit == "bits/dim" and m.split == "test"), None)
    if metric is None:
        return ""
    return f"{'≤ ' if metric.exact is False else ''}{metric.value:.3f}"


def done(out: Path, what: str, info: Info) -> None:
    print(f"wrote {shown(out)}: {what}")
    about(info)


def write_samples(out: Path, drawn: Samples, first: NDArray[np.uint8] | None = None) -> None:
    """Write what was drawn and say so. A picture grid begins with `first` [H,W,C], which arrays leave to the caller."""
    images = drawn.images
    if first is not None and out.suffix.lower() == ".png":
        images = np.concatenate([first[np.newaxis], images])
    likelihood = drawn.log_likelihood
    files.write_images(out, images, {"log_likelihood": likelihood, "seed": np.array(drawn.seed)})
    mean = "" if likelihood is None else f", mean log-likelihood {likelihood.mean():.1f} nats"
    done(out, f"{len(drawn.images)} images, seed {drawn.seed}{mean}", drawn.info)


def about(info: Info) -> None:
    """Where the time went, on stderr, so that stdout stays for results."""
    batch = f", in a batch of {info.batch_size}" if info.batch_size else ""
    print(
        f"{shown(info.model)} version {info.version}: {info.total_seconds * 1000:.1f} ms in the server "
        f"(queue {info.queue_seconds * 1000:.1f}, compute {info.compute_seconds * 1000:.1f}{batch})",
        file=sys.stderr,
    )


def joined(parts: BulkStream[_Result], images: int, message_size: int = MESSAGE_SIZE) -> _Result:
    """The answers of a stream of so many images as one, with the times of all; a bar shows how far it is."""
    stderr = console(stderr=True)
    messages = math.ceil(images / message_size)
    with parts:
        # Gone when it is done, or before an error is told; and nothing of it in a log.
        bar = track(parts, "images", total=messages, console=stderr, transient=True, disable=not stderr.is_terminal)
        found = list(bar)
    return results.joined(found)


def labels(text: str | None) -> NDArray[Any] | int | None:
    """What `--labels` says: a number, or the array in a file."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        path = Path(text)
    if not files.is_array(path):
        raise errors.invalid(
            "--labels", f"is {text!r}; must be a class (a whole number), or a .npy or .npz file of them"
        )
    return files.read_array(path, ("labels", "label", "y"))
