"""The command `ancestral`: what it consists of, and how it ends. The commands stand in modules of their own.

Exit codes: 0 done; 1 the server's fault; 2 a wrong argument, file or bundle; 3 no such model; 4 the model cannot do
that; 5 the server is overloaded; 6 no answer in time; 7 nothing answers there, or the model does not serve now; 8 not
allowed; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated, Any, TypeVar

import typer

from ancestral_client import _images as images
from ancestral_client import _latents as latents
from ancestral_client import _manage as manage
from ancestral_client import _outputs as outputs
from ancestral_client import _reaching as reaching
from ancestral_client import _sampling as sampling
from ancestral_client import _studio as studio
from ancestral_client import _traced as traced
from ancestral_client import errors
from ancestral_client.bench import bench
from ancestral_client.bulk_jobs.command import bulk
from ancestral_client.doctor import doctor
from ancestral_client.replacing import FileProblem, reason

_EXIT_CODES: dict[type[Exception], int] = {
    FileProblem: 2,
    errors.InvalidArgument: 2,
    errors.MessageTooLarge: 2,
    errors.BundleRefused: 2,
    errors.NotFound: 3,
    errors.Unimplemented: 4,
    errors.Overloaded: 5,
    errors.DeadlineExceeded: 6,
    errors.Unavailable: 7,
    errors.Unauthenticated: 8,
    errors.PermissionDenied: 8,
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _App(typer.Typer):
    """Whose commands, and what stands before them, take the options by which a server is reached."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[_Command], _Command]:
        return _with_connection(super().command(*arguments, **options))

    def callback(self, *arguments: Any, **options: Any) -> Callable[[_Command], _Command]:
        return _with_connection(super().callback(*arguments, **options))


def _with_connection(register: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Registers what takes these options too, and leaves what it was made of as it is."""

    def decorator(command: _Command) -> _Command:
        register(reaching.connecting(command))
        return command

    return decorator


app = _App(
    help="Ask an Ancestral server for samples, encodings, features and likelihoods of images.",
    epilog="Exit codes: 0 done, 1 the server's fault, 2 a wrong argument, file or bundle, 3 no such model, 4 the model "
    "cannot do that, 5 overloaded, 6 no answer in time, 7 nothing answers there, or the model does not serve now, 8 "
    "not allowed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain: in its panels typer says of each flag that it takes a <bool>.
    rich_markup_mode=None,
)


def tell_version(wanted: bool) -> None:
    if wanted:
        print(f"ancestral {metadata.version('ancestral')}")
        raise typer.Exit


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar=reaching.VARIABLE, help="Where the server listens.")
    ] = "localhost:8500",
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
    ] = False,
    otlp: Annotated[
        str,
        typer.Option(metavar="URL", envvar=list(traced.COLLECTORS), help="Trace the command: where a collector is."),
    ] = "",
) -> None:
    # --address may stand before the command or after it; after it wins. What is wrong with it names where it stands.
    source = context.get_parameter_source("address")
    given_by_variable = source is not None and source.name == "ENVIRONMENT"
    context.obj = (reaching.VARIABLE if given_by_variable else "--address", address)
    reaching.warn_of_near_variables(os.environ)
    if otlp:
        traced.trace(context, otlp)


app.command()(manage.models)
app.command(short_help="Load a version from its folder, or load it anew.")(manage.load)
app.command(short_help="Take a version, or all, out of service.")(manage.unload)
app.command(short_help="Send a whole data set through a model, Parquet to Parquet.")(bulk)
app.command(short_help="Serve a page, for a browser, that shows what the models do.")(studio.studio)
app.command(short_help="Find out what keeps this machine from a server.")(doctor)
app.command(short_help="Measure how fast a server answers.")(bench)


app.command()(sampling.sample)
app.command()(sampling.complete)
app.command()(images.encode)
app.command()(latents.decode)
app.command()(latents.reconstruct)
app.command()(latents.interpolate)
app.command()(latents.traverse)
app.command()(latents.manifold)
app.command()(images.features)
app.command()(images.classify)
app.command()(images.score)


def main() -> None:
    """Runs a command; what fails is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a letter that its encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="ancestral")
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except (errors.AncestralError, FileProblem) as error:
        print(f"ancestral: {outputs.told(error)}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))
    except OSError as error:
        # Files of ours are FileProblems. What could not be written is thrown away, or Python would try it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read it has seen enough, as head
            sys.exit(1)
        print(f"ancestral: the output cannot be written: {reason(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
