"""The file of callers: who they are known by, what they may do, and how much. TOML:

[callers.photos]
roles = ["infer"]
tokens = ["sha256:..."]
certificates = ["photos.example"]
quota = {images_per_second = 500, in_flight = 16}

[anonymous]
roles = ["health"]
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from ancestral_server.access import files
from ancestral_server.access.quota import Quota
from ancestral_server.errors import StartupError

Role = Literal["infer", "observe", "admin", "health", "reflection"]
ROLES: tuple[Role, ...] = get_args(Role)
# Who calls without being known. A caller of the file cannot be called so.
ANONYMOUS = "anonymous"
# Each has some series of its own, which a scrape has to hold.
MOST_CALLERS = 500
HASH = "sha256:"
_HASH = re.compile(HASH + "[0-9a-f]{64}")
NAME = r"[A-Za-z0-9_-]{1,64}"


def hashed(token: str) -> str:
    """What a file says of a token. A plain hash: a token has 256 random bits, which no search finds."""
    return HASH + hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    name: str
    roles: frozenset[Role]
    quota: Quota = field(default_factory=Quota)


class Callers:
    """Who may call, by what they bring."""

    def __init__(self, anonymous: Caller, tokens: Mapping[str, Caller], certificates: Mapping[str, Caller]) -> None:
        self.anonymous = anonymous
        self._tokens = tokens
        self._certificates = certificates
        self.all = {caller.name: caller for caller in (*tokens.values(), *certificates.values(), anonymous)}

    @property
    def have_tokens(self) -> bool:
        return bool(self._tokens)

    @property
    def have_certificates(self) -> bool:
        return bool(self._certificates)

    def of_token(self, token: str) -> Caller | None:
        return self._tokens.get(hashed(token))

    def of_names(self, names: Iterable[str]) -> Caller | None:
        """Of the names of a certificate; where several are callers, the one that it names first."""
        return next((self._certificates[name] for name in names if name in self._certificates), None)

    @staticmethod
    def read(path: Path) -> Callers:
        """StartupError, naming the file, the key in it and what to do, if it is not fit."""
        where = f"--callers {path}"
        try:
            text = files.read(path, "--callers", secret=True).decode()
            found = _File.model_validate(tomllib.loads(text))
        except UnicodeDecodeError as error:
            raise StartupError(f"{where}: is not UTF-8, as TOML has to be") from error
        except tomllib.TOMLDecodeError as error:
            raise StartupError(f"{where}: is no TOML: {error}") from error
        except ValidationError as error:
            raise StartupError("\n".join(f"{where}: {_complaint(each)}" for each in error.errors())) from error
        return _compiled(where, found)


def _hash(value: object) -> str:
    found = value.lower() if isinstance(value, str) else ""
    if not _HASH.fullmatch(found):
        raise ValueError(f"is no hash of a token, {HASH} and 64 hexadecimal digits; `ancestral-server token` makes one")
    return found


_Strict = ConfigDict(frozen=True, extra="forbid")


class _Caller(BaseModel):
    model_config = _Strict

    roles: Annotated[list[Role], Field(min_length=1)]
    tokens: list[Annotated[str, BeforeValidator(_hash)]] = []
    certificates: list[Annotated[str, StringConstraints(min_length=1)]] = []
    quota: Quota = Quota()


class _Anonymous(BaseModel):
    model_config = _Strict

    roles: list[Role]
    quota: Quota = Quota()


class _File(BaseModel):
    model_config = _Strict

    callers: dict[Annotated[str, StringConstraints(pattern=f"^{NAME}$")], _Caller] = {}
    anonymous: _Anonymous = _Anonymous(roles=[])


_KNOWN = {*_File.model_fields, *_Caller.model_fields, *Quota.model_fields}


def _complaint(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"])).removesuffix(".[key]")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), _KNOWN, n=1)
        return f"{key}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"{key}: is missing; one or more of {', '.join(ROLES)}"
    if problem["loc"][-1] == "[key]":
        return f"{key}: a caller's name has 1 to 64 letters, digits, - and _"
    said = problem["msg"].removeprefix("Value error, ")
    # A token that somebody took for its hash is not to be read in a log.
    return f"{key}: {said}" if "tokens" in problem["loc"] else f"{key}: {said} (got {problem['input']!r})"


def _compiled(where: str, file: _File) -> Callers:
    if len(file.callers) > MOST_CALLERS:
        raise StartupError(
            f"{where}: names {len(file.callers)} callers, may name {MOST_CALLERS}: some can share a name"
        )
    if ANONYMOUS in file.callers:
        raise StartupError(f"{where}: callers.{ANONYMOUS}: who brings nothing is [{ANONYMOUS}], a table of its own")
    if not file.callers and not file.anonymous.roles:
        raise StartupError(f"{where}: names nobody, so that nobody could call; `ancestral-server token` makes an entry")
    known: dict[str, dict[str, Caller]] = {"tokens": {}, "certificates": {}}
    for name, entry in file.callers.items():
        caller = Caller(name, frozenset(entry.roles), entry.quota)
        if not entry.tokens and not entry.certificates:
            raise StartupError(f"{where}: callers.{name}: has neither tokens nor certificates to be known by")
        for kind, values in (("tokens", entry.tokens), ("certificates", entry.certificates)):
            for index, value in enumerate(values):
                if (other := known[kind].setdefault(value, caller)) is not caller or value in values[:index]:
                    raise StartupError(
                        f"{where}: callers.{name}.{kind}[{index}]: is also that of callers.{other.name}; who calls has "
                        f"to be clear: keep one of the two"
                    )
    anonymous = Caller(ANONYMOUS, frozenset(file.anonymous.roles), file.anonymous.quota)
    return Callers(anonymous, known["tokens"], known["certificates"])
