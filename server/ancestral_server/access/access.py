"""What the settings say about who may come in: read before the ports open, and again when a file changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from ancestral_server.access import files
from ancestral_server.access.callers import ANONYMOUS, Caller, Callers, Role
from ancestral_server.access.certificates import Certificates
from ancestral_server.addresses import only_here
from ancestral_server.errors import PermissionDenied, StartupError, Unauthenticated
from ancestral_server.settings import Settings

log = structlog.get_logger()

# How often to look whether a file has changed: a look asks the system about four files at most, some microseconds.
LOOK_SECONDS = 1.0
# Times that a start reads files which change meanwhile, before it takes them as they are.
_ATTEMPTS = 3

_Content = TypeVar("_Content")


class _Watched(Generic[_Content]):
    """What files say, which belong together. What they said last holds until they say something that is fit."""

    def __init__(self, what: str, paths: Iterable[Path | None], read: Callable[[], _Content]) -> None:
        self.what = what
        self._paths = [path for path in paths if path is not None]
        self._read = read
        for _ in range(_ATTEMPTS):
            self._prints = self._now()
            self.content = read()
            if self._prints == self._now():
                break

    def _now(self) -> list[tuple[int, ...]]:
        return [files.fingerprint(path) for path in self._paths]

    def look(self) -> bool | None:
        """Read the files again if they have changed: whether they were fit; None: nothing has changed, or somebody is
        still at it.
        """
        if (now := self._now()) == self._prints:
            return None
        try:
            content = self._read()
        except StartupError as error:
            if now != self._now():
                return None
            self._prints = now
            log.error("what has changed is not used, what was before goes on", what=self.what, reason=str(error))
            return False
        if now != self._now():
            return None
        self.content, self._prints = content, now
        log.info("what has changed is used from now on", what=self.what)
        return True


class Access:
    """Certificates and callers, as they are now. `on_reload(what, fit)` hears when files were read again.

    StartupError if what the settings name is not fit. Its attributes are replaced by the event loop, and read by any
    thread.
    """

    def __init__(self, settings: Settings, on_reload: Callable[[str, bool], None] = lambda what, fit: None) -> None:
        self._settings = settings
        self._on_reload = on_reload
        paths = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._certificates = _Watched("certificates", paths, lambda: Certificates.read(settings))
        self._callers = _Watched("callers", (settings.callers,), lambda: _callers(settings))

    @property
    def certificates(self) -> Certificates | None:
        return self._certificates.content

    @property
    def callers(self) -> Callers:
        return self._callers.content

    @property
    def is_open(self) -> bool:
        """Whether anybody may do anything."""
        return self._settings.callers is None and "admin" in self.callers.anonymous.roles

    @property
    def names_callers(self) -> bool:
        """Whether a file says who may call."""
        return self._settings.callers is not None

    def identify(self, authorization: str | None, names: Callable[[], Sequence[str]]) -> Caller:
        """Who calls, by the header `authorization` or else by the names of a certificate. Unauthenticated where that is
        nobody who is known, and who is unknown may do nothing.
        """
        callers = self.callers
        if authorization is not None and self.names_callers:
            kind, _, token = authorization.partition(" ")
            if kind.lower() != "bearer" or not token:
                raise Unauthenticated("TOKEN_MALFORMED", "authorization: must be 'Bearer TOKEN'")
            if (caller := callers.of_token(token.strip())) is None:
                raise Unauthenticated("TOKEN_UNKNOWN", "authorization: the token is not known here (any more)")
            return caller
        if callers.have_certificates and (caller := callers.of_names(names())) is not None:
            return caller
        if not callers.anonymous.roles:
            raise self.stranger(names())
        return callers.anonymous

    def let_observe(self, authorization: str | None, names: Sequence[str]) -> None:
        """Unauthenticated or PermissionDenied unless who has these may read the metrics."""
        caller = self.identify(authorization, lambda: names)
        if not caller.roles & {"observe", "admin"}:
            if caller is self.callers.anonymous:
                raise self.stranger(names)
            raise PermissionDenied(f"{caller.name} may not read the metrics: that is for observe or admin")

    def stranger(self, names: Sequence[str]) -> Unauthenticated:
        """What somebody unknown hears, of whose certificate these are the names."""
        if names:
            return Unauthenticated(
                "CERTIFICATE_UNKNOWN", f"no caller has a name of this certificate: {', '.join(names)}"
            )
        known = self.callers.have_certificates
        either = " or a certificate of a known name" if known else ""
        return Unauthenticated(
            "CREDENTIALS_MISSING", f"only who is known may do this: bring a token (authorization: Bearer TOKEN){either}"
        )

    def remarks(self) -> list[str]:
        """What whoever starts the server should know of these settings."""
        settings = self._settings
        if only_here(settings.host):
            return []
        plain = settings.tls_cert is None
        if settings.callers is None and settings.tls_client_ca is None:
            remedy = "--callers says who may" + (", --tls-cert turns TLS on" if plain else "")
            return [
                f"whoever reaches {settings.host} may call: {remedy}; nobody is named admin, so LoadModel and "
                "UnloadModel are closed"
            ]
        remarks = []
        if "admin" in self.callers.anonymous.roles:
            remarks.append(
                f"whoever reaches {settings.host} may load and unload models: [{ANONYMOUS}] of --callers has the role "
                "admin"
            )
        if self.callers.have_tokens and (plain or not settings.metrics_tls):
            where, remedy = (
                ("", "--tls-cert turns TLS on") if plain else (" to the metrics' port", "--metrics-tls true")
            )
            remarks.append(f"tokens come{where} in plain text, for all who share the network to read: {remedy}")
        elif settings.tls_client_ca is not None and not settings.metrics_tls and settings.callers is None:
            remarks.append(
                f"whoever reaches {settings.host} may read the metrics, without a certificate: --metrics-tls true"
            )
        return remarks

    async def watch(self) -> None:
        """Look at the files, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for watched in (self._certificates, self._callers):
                try:
                    fit = watched.look()
                except Exception as error:
                    log.exception("a change cannot be looked at", what=watched.what, reason=str(error))
                    continue
                if fit is not None:
                    self._on_reload(watched.what, fit)


def _callers(settings: Settings) -> Callers:
    if settings.callers is not None:
        callers = Callers.read(settings.callers)
        if callers.have_certificates and settings.tls_client_ca is None:
            raise StartupError(
                f"--callers {settings.callers}: names certificates, which nobody is asked for without --tls-client-ca"
            )
        return callers
    roles: set[Role] = {"infer", "observe", "health", "reflection"}
    if only_here(settings.host) and settings.tls_client_ca is None:
        roles.add("admin")
    return Callers(Caller(ANONYMOUS, frozenset(roles)), {}, {})
