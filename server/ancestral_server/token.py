"""`ancestral-server token`: makes a token, and the entry of the file of callers that knows it."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import tomllib
from collections.abc import Sequence

from ancestral_server.access.callers import ANONYMOUS, NAME, ROLES, hashed
from ancestral_server.command_line import Parser, WrongUsage

# By it whoever searches for secrets that have leaked knows one of ours.
PREFIX = "ancestral_"
# Of chance in a token: nobody guesses it, and nobody finds it by its hash.
TOKEN_BYTES = 32
CANNOT_WRITE = 1


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 where a file cannot be written. WrongUsage names what is wrong."""
    asked = _parser().parse_args(arguments)
    if not re.fullmatch(NAME, asked.name) or asked.name == ANONYMOUS:
        raise WrongUsage(
            f"NAME: must have 1 to 64 letters, digits, - and _, and not be {ANONYMOUS} (got {asked.name!r})"
        )
    _check_new(asked)
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    roles = ", ".join(f'"{role}"' for role in dict.fromkeys(asked.role or ["infer"]))
    entry = f'[callers.{asked.name}]\nroles = [{roles}]\ntokens = ["{hashed(token)}"]\n'
    try:
        if asked.out is not None:
            # In the place of nothing: another token may be in use.
            _write(asked.out, f"{token}\n", os.O_EXCL)
        if asked.callers is not None:
            # After an empty line, which separates it from what is there.
            _write(asked.callers, f"\n{entry}", os.O_APPEND)
    except OSError as error:
        print(f"ancestral-server: {error.filename}: cannot be written: {error.strerror}", file=sys.stderr)
        return CANNOT_WRITE
    print(entry, end="")
    print(
        f"the token, shown this once: {token}" if asked.out is None else f"the token is in {asked.out}", file=sys.stderr
    )
    return 0


def _check_new(asked: argparse.Namespace) -> None:
    """WrongUsage where the file of callers has the caller already, is none, or would be spoilt by what is appended."""
    if asked.callers is None or not os.path.exists(asked.callers):
        return
    try:
        with open(asked.callers, "rb") as file:
            text = file.read().decode()
        known = tomllib.loads(text).get("callers", {})
    except (OSError, ValueError) as error:
        raise WrongUsage(f"--callers: {asked.callers}: {getattr(error, 'strerror', None) or error}") from error
    if asked.name in known:
        raise WrongUsage(
            f"NAME: {asked.name} is in {asked.callers} already; leave --callers out, and add the hash to its tokens"
        )
    try:
        tomllib.loads(f"{text}\n[callers.{asked.name}]\n")
    except ValueError as error:
        # As in callers = {...}, which TOML does not let anybody add to.
        raise WrongUsage(
            f"--callers: {asked.callers}: a table [callers.{asked.name}] cannot be added to it ({error}); leave "
            "--callers out, and add what is printed by hand"
        ) from error


def _write(path: str, text: str, how: int) -> None:
    """For nobody else to read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w") as file:
        file.write(text)


def _parser() -> Parser:
    parser = Parser(
        "ancestral-server token",
        description="Make a token, and print the entry for the file of --callers, which has its hash alone. A running "
        "server reads that file again when it has changed. A second token of a caller who is in the file: add its hash "
        "to the list there, and take the old one out when nobody uses it any more.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="what the caller is called, also in the metrics")
    parser.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        help="what it may do; may be given several times (default: infer). infer: all that models do; observe: look at "
        "models, statistics and metrics; admin: everything, also load and unload; health, reflection: that alone",
    )
    parser.add_argument(
        "--callers", metavar="FILE", help="also append the entry to this file; a new one is yours alone"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="a new file for the token, for you alone to read; without it the token is shown"
    )
    return parser
