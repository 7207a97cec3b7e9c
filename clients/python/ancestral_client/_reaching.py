"""How commands reach a server: where it is, how they are let in, and which model is meant."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from ancestral_client import _access, _arguments, errors
from ancestral_client.client import AsyncClient, Client
from ancestral_client.results import Model

VARIABLE = "ANCESTRAL_ADDRESS"
# How long whoever presses Tab waits for the names of models.
_COMPLETION_SECONDS = 1.0

_P = ParamSpec("_P")
_Client = TypeVar("_Client", Client, AsyncClient)

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
    priority: _arguments.Priority = "interactive",
    bulk_priority: _arguments.Priority = "batch",
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
    address = _arguments.address_of(address, name)
    given = context.meta.get(__name__, {})
    try:
        return kind(address, **options, **given)
    except errors.InvalidArgument as error:
        (violation,) = error.violations
        if violation.field not in given:
            raise
        raise errors.invalid(f"--{violation.field.replace('_', '-')}", violation.problem) from None


def served(asked: Client, model: str, version: int) -> Model:
    """The model; Unavailable if it does not serve: perhaps its manifest could not be read, and there is no size."""
    found = asked.model(model, version)
    if not found.serving:
        raise errors.Unavailable(f"{model} does not serve: {found.reason}")
    return found


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the server's models, for a shell that asks how a word may go on; none where no server answers."""
    before, after = context.find_root().params, context.params
    address = after.get("address") or before.get("address") or os.environ.get(VARIABLE) or "localhost:8500"
    given: dict[str, Any] = {name: before.get(name) if after.get(name) is None else after[name] for name in CONNECTING}
    try:
        with Client(address, timeout=_COMPLETION_SECONDS, retry_seconds=0, **given) as client:
            return sorted({model.name for model in client.models() if model.name.startswith(incomplete)})
    except errors.AncestralError:
        return []


def warn_of_near_variables(environment: Mapping[str, str]) -> None:
    """Say of a variable like ANCESTRAL_ADRESS that nobody reads it."""
    known = {VARIABLE, *_access.VARIABLES}
    for name in environment.keys() - known:
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            print(f"ancestral: {name} is not read; did you mean {near[0]}?", file=sys.stderr)
