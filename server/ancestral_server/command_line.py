"""Settings from the flags of `ancestral-server` and the environment variables `ANCESTRAL_SERVER_*`. Flags go first."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ancestral_server.settings import PREFIX, Settings, flag_of

_VARIABLES = {f"{PREFIX}{field.upper()}": field for field in Settings.model_fields}
# Kubernetes tells each container of the Services beside it. One called ancestral-server, or ancestral-server-metrics,
# has our prefix: by names of its own, and by ..._PORT=tcp://10.0.0.7:8500, which may also be the name of a setting.
_OF_A_SERVICE = re.compile(
    PREFIX + r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_URL_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://.*")
# What a flag wants, by its unit or else by its type.
_UNITS = {
    "device": "auto|cpu|cuda|cuda:N,...|cuda:all",
    "host": "HOST",
    "port": "PORT",
    "endpoint": "URL",
    "seconds": "SECONDS",
    "ms": "MS",
    "mib": "MIB",
    "models": "FOLDER",
}
_TYPES: dict[Any, str] = {int: "N", float: "X"}


class WrongUsage(Exception):
    """Flags or variables that are no settings: a line for each."""


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings, and what to tell of variables that look like settings and set nothing.

    WrongUsage names each flag or variable that is wrong. Ends the process, with what was asked for, at --help and
    --version.
    """
    variables, remarks = from_environment(environment)
    flags, others = _parser().parse_known_args(arguments)
    if others:
        # What follows an unknown flag is most likely its value.
        unknown = [text for text in others if text.startswith("-")] or others
        raise WrongUsage("\n".join(map(_unknown, unknown)))
    given: dict[str, str] = vars(flags)
    values = {field: value for field, (_, value) in variables.items()} | given
    names = {field: flag_of(field) for field in Settings.model_fields}
    names |= {field: name for field, (name, _) in variables.items() if field not in given}
    try:
        settings = Settings.model_validate(values)
        remarks += [f"{names[idle]} does nothing without {flag_of(needed)}" for idle, needed in settings.idle.items()]
        return settings, remarks
    except ValidationError as error:
        raise WrongUsage("\n".join(_complaint(names[str(p["loc"][0])], p) for p in error.errors())) from error


def _complaint(name: str, problem: Any) -> str:
    if problem["type"] == "missing":
        return f"{name}: is required, or the variable {PREFIX}{name.strip('-').upper()}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"


def from_environment(environment: Mapping[str, str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Of each field that a variable sets, the variable's name and its value; and remarks on the other variables."""
    found: dict[str, tuple[str, str]] = {}
    remarks = []
    for name, value in environment.items():
        upper = name.upper()
        field = _VARIABLES.get(upper)
        if not upper.startswith(PREFIX) or not value.strip():
            continue  # set to nothing is not set: so compose files and charts leave a variable open
        if _URL_OF_A_SERVICE.fullmatch(value):
            if field:
                remarks.append(f"{name}={value} is ignored: it tells of a Service of Kubernetes, and is no setting")
        elif field:
            found[field] = (name, value)
        elif not _OF_A_SERVICE.fullmatch(upper):
            remarks.append(f"{name} is no setting and is ignored; {_nearest(upper, _VARIABLES)}")
    return found, remarks


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else "ancestral-server --help lists them all"


def _unknown(text: str) -> str:
    name = text.partition("=")[0]
    if not name.startswith("-"):
        return f"{text}: only flags are taken; ancestral-server --help lists them all"
    return f"{name}: there is no such flag; {_nearest(name, map(flag_of, Settings.model_fields))}"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUsage(message.removeprefix("argument "))


def _parser() -> Parser:
    parser = Parser(
        "ancestral-server",
        description=Settings.__doc__,
        epilog="`ancestral-server health` asks a running server whether it takes calls, `ancestral-server token` makes "
        f"a token for --callers. Every flag is also an environment variable: --max-batch is {PREFIX}MAX_BATCH. Flags "
        "go first.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"ancestral-server {metadata.version('ancestral')}",
        help="show the version and exit",
    )
    for name, field in Settings.model_fields.items():
        # A flag alone is a yes.
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        parser.add_argument(flag_of(name), metavar=_metavar(name, field), help=_help(field), **alone)
    return parser


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true|false"
    return _UNITS.get(name.rpartition("_")[2], _TYPES.get(field.annotation, "FILE"))


def _help(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    where = "default here" if field.default_factory else "default"
    shown = "required" if field.is_required() else f"{where}: {str(default).lower()}"
    return f"{field.description} ({shown})".replace("%", "%%")
