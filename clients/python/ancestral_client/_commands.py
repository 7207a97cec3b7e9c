"""What the commands of `ancestral` share: their usual arguments, and what they say when they are done."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

from ancestral.text import shown
from ancestral_client import _access, _checks, _progress, _stdin, errors, files, items, tracing
from ancestral_client._joining import Joining
from ancestral_client.bulk import BulkStream
from ancestral_client.client import AsyncClient, Client
from ancestral_client.results import Decoding, Encoding, Info, Model, Samples, Scores
from ancestral_client.targets import Target

# Seconds: what `Client` has by default, too.
TIMEOUT = 60.0
VARIABLE = "ANCESTRAL_ADDRESS"
# OpenTelemetry's own, which hold for all programs.
COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# So many problems with single images are told in a line each; one more line says how many there are in all.
_TOLD = 10
# How long whoever presses Tab waits for the names of models.
_COMPLETION_SECONDS = 1.0

_P = ParamSpec("_P")
_Result = TypeVar("_Result", Encoding, Scores)
_Client = TypeVar("_Client", Client, AsyncClient)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the server's models, for a shell that asks how a word may go on; none where no server answers."""
    given = context.find_root().params.get("address")
    address = context.params.get("address") or given or os.environ.get(VARIABLE) or "localhost:8500"
    try:
        with Client(address, timeout=_COMPLETION_SECONDS, retry_seconds=0) as client:
            return sorted({model.name for model in client.models() if model.name.startswith(incomplete)})
    except errors.AncestralError:
        return []


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Name of the model; `ancestral models` lists them.", autocompletion=complete_model
    ),
]
ImageFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES",
        help="8-bit images: .npy, .npz ([N,H,W,C]; [N,H,W] for grey), idx, .parquet, pictures, folders of pictures; "
        "- is stdin, with any of them but a folder.",
    ),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="What becomes of an image that cannot be read or has another size: skip goes on without it."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help="What --out - writes: npy (the default), npz, parquet or png."),
]
ImagesOut = Annotated[
    Path,
    typer.Option(
        help="A grid of the images (.png), the images (.npy), they and all else (.npz, .parquet), a picture for each "
        "(a folder that is there), or - for stdout."
    ),
]
ONE_IMAGE = "a picture of the model's size, .npy, .npz, or - for stdin"
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
    str | None,
    typer.Option(metavar="CLASS|FILE", help="class of all images, or a .npy, .npz or idx file with one for each."),
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

    # As typer, and whoever else asks `inspect`, sees it.
    vars(with_options)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *more])
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


def served(asked: Client, model: str, version: int) -> Model:
    """The model; Unavailable if it does not serve: perhaps its manifest could not be read, and there is no size."""
    found = asked.model(model, version)
    if not found.serving:
        raise errors.Unavailable(f"{model} does not serve: {found.reason}")
    return found


def images(asked: Client, model: str, version: int, paths: Sequence[Path], on_error: str = "fail") -> items.Images:
    """The images of files and folders as the model takes them; stderr says what was left out or lost its colours."""
    items.check(paths)
    found = asked.model(model, version)
    if not math.prod(found.image_shape):  # its manifest could not be read: there is no size to hold the files to
        raise errors.Unavailable(f"{model} does not serve: {found.reason}")
    read = items.read(paths, found.image_shape, model, skip=on_error == "skip", watched=_with_bar)
    for problem in read.problems[:_TOLD]:
        warn(f"left out: {problem}")
    if read.problems:
        warn(f"{len(read.problems)} of {read.total} images are left out")
    if read.coloured:
        more = f", as {len(read.coloured) - 1} more are" if len(read.coloured) > 1 else ""
        warn(f"{read.coloured[0]}: is in colour and is read as grey{more}")
    return read


def image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The one image of a file, or of stdin, [H,W,C]."""
    with _stdin.as_file(path) as there:
        return files.read_image(there, shape)


def mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which pixels a file, or stdin, says to keep, [H,W,C]."""
    with _stdin.as_file(path) as there:
        return files.read_mask(there, shape)


def array(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array of a file, or of stdin."""
    with _stdin.as_file(path) as there:
        return files.read_array(there, names)


def warn(text: str) -> None:
    print(f"ancestral: {shown(text)}", file=sys.stderr)


def _with_bar(read: Iterable[items.Item]) -> Iterable[items.Item]:
    """The items, while a bar says how many were read; how many there are nobody knows before."""
    with _progress.told(progress=True, what="reading") as tell:
        for count, item in enumerate(read, 1):
            yield item
            tell(count, None)


def bits(model: Model) -> str:
    """The model's bits/dim on the test images; ≤ marks a bound."""
    metric = next((m for m in model.metrics if m.unit == "bits/dim" and m.split == "test"), None)
    if metric is None:
        return ""
    return f"{'≤ ' if metric.exact is False else ''}{metric.value:.3f}"


def done(out: Target, what: str, info: Info, as_json: bool = False, **facts: Any) -> None:
    """Say what was written, in words or, with `facts`, as JSON; where the arrays go to stdout, on stderr."""
    if as_json:
        print(json.dumps({"out": str(out), **facts, "info": asdict(info)}))
        return
    print(f"wrote {shown(out)}: {what}", file=sys.stderr if out.is_stdout else sys.stdout)
    about(info)


def write_samples(
    out: Target, drawn: Samples, first: NDArray[np.uint8] | None = None, *, as_json: bool = False
) -> None:
    """Write what was drawn and say so. A picture grid begins with `first` [H,W,C], which arrays leave to the caller."""
    likelihood = drawn.log_likelihood
    out.write(
        {"images": drawn.images, "log_likelihood": likelihood, "seed": np.array(drawn.seed)},
        grid=None if first is None else np.concatenate([first[np.newaxis], drawn.images]),
        first=drawn.first_index,
    )
    mean = "" if likelihood is None else f", mean log-likelihood {likelihood.mean():.1f} nats"
    what = f"{len(drawn.images)} images, seed {drawn.seed}{mean}"
    told_likelihood = None if likelihood is None else likelihood.tolist()
    facts = {"images": len(drawn.images), "seed": drawn.seed, "first_index": drawn.first_index}
    done(out, what, drawn.info, as_json, **facts, log_likelihood=told_likelihood)


def write_decoded(
    out: Target,
    decoded: Decoding,
    *,
    as_json: bool,
    grid: NDArray[np.uint8] | None = None,
    columns: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write what latents were decoded to and say so; a picture is that of `grid`, in so many columns."""
    arrays = {"images": decoded.images, "mean": decoded.mean, "variance": decoded.variance}
    out.write(arrays, grid=grid, columns=columns, names=names)
    done(out, f"{len(decoded.images)} images", decoded.info, as_json, images=len(decoded.images))


def about(info: Info) -> None:
    """Where the time went, on stderr, so that stdout stays for results."""
    batch = f", in a batch of {info.batch_size}" if info.batch_size else ""
    print(
        f"{shown(info.model)} version {info.version}: {info.total_seconds * 1000:.1f} ms in the server "
        f"(queue {info.queue_seconds * 1000:.1f}, compute {info.compute_seconds * 1000:.1f}{batch})",
        file=sys.stderr,
    )


def joined(parts: BulkStream[_Result], images: int) -> _Result:
    """The answers of a stream of so many images as one, with the times of all; a bar shows how far it is."""
    joining = Joining[_Result](images)
    with parts, _progress.told(progress=True) as tell:
        for part in parts:
            tell(joining.add(part), images)
    return joining.result()


def labels(text: str | None, given: items.Images | None = None) -> NDArray[Any] | int | None:
    """What `--labels` says: a number, or the array in a file; of the images of `given` those that were not left out."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        path = Path(text)
    if not files.holds_array(path):
        raise errors.invalid(
            "--labels", f"is {text!r}; must be a class (a whole number), or a .npy, .npz or idx file of them"
        )
    found = files.read_array(path, ("labels", "label", "y"))
    return found if given is None else given.of_kept(found)
