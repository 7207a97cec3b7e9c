"""`ancestral-server token`: makes a token, and the entry of the file of callers that knows it."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Sequence

from ancestral_server.access.callers import ANONYMOUS, NAME, ROLES, hashed
from ancestral_server.command_line import Parser, WrongUsage

# By it whoever searches for secrets that have leaked knows one of ours.
PREFIX = "ancestral_"
# Of chance in a token: nobody guesses it, and nobody finds it by its hash.
TOKEN_BYTES = 32
CANNOT_WRITE = 1


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 where the token cannot be written. WrongUsage names what is wrong."""
    asked = _parser().parse_args(arguments)
    if not re.fullmatch(NAME, asked.name) or asked.name == ANONYMOUS:
        raise WrongUsage(f"NAME: must have 1 to 64 letters, digits, - and _, and not be {ANONYMOUS} (got {asked.name!r})")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    if asked.out is not None:
        try:
            # For nobody else to read, and in the place of nothing: another token may be in use.
            file = os.open(asked.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as written:
                print(token, file=written)
        except OSError as error:
            print(f"ancestral-server: --out {asked.out}: cannot be written: {error.strerror}", file=sys.stderr)
            return CANNOT_WRITE
    roles = ", ".join(f'"{role}"' for role in dict.fromkeys(asked.role or ["infer"]))
    print(f'[callers.{asked.name}]\nroles = [{roles}]\ntokens = ["{hashed(token)}"]')
    said = f"the token is in {asked.out}" if asked.out is not None else f"the token, shown this once: {token}"
    print(f"{said}\nabove is what --callers FILE says of it: only its hash", file=sys.stderr)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "ancestral-server token",
        description="Make a token, and print the entry for the file of --callers: add it to that file, which a running "
        "server then reads again. Give the token to whoever is to call. A second token of a caller that is in the file: "
        "add its hash to the list there.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="what the caller is called, in the log and the metrics, too")
    parser.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        help="what it may do; may be given several times (default: infer). infer: everything that models do; observe: "
        "look at models, metrics and statistics; admin: everything, also load and unload; health and reflection: that",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="a new file for the token, which only you can read; without it the token is shown"
    )
    return parser
