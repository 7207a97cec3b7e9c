"""How a client is let in: TLS, a certificate of its own, a token; from arguments, or else from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import grpc

from ancestral_client import _address
from ancestral_client.errors import InvalidArgument, invalid

# Of the environment variable of each argument: ANCESTRAL_TLS_CA for tls_ca.
PREFIX = "ANCESTRAL_"
File = str | os.PathLike[str]
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Access:
    """The arguments of a client about it, see `Client`. None: what the environment says, or else nothing."""

    tls: bool | None = None
    tls_ca: File | None = None
    tls_cert: File | None = None
    tls_key: File | None = None
    tls_name: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: File | None = None

    def or_of(self, environment: Mapping[str, str]) -> tuple[Access, dict[str, str]]:
        """With what the environment says in the place of what is not given; and what to call each argument in errors,
        by the place where it was given.
        """
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        names = {name: name for name in given}
        # A token is one thing, however it is given; and who says "no TLS" means it, whatever the environment has.
        settled = {"token", "token_file"} if self.token is not None or self.token_file is not None else set()
        if self.tls is False:
            settled |= {name for name in given if name.startswith("tls_")}
        for name in given.keys() - settled:
            variable = PREFIX + name.upper()
            text = environment.get(variable, "").strip()
            if given[name] is None and text:  # set to nothing is not set
                given[name] = _truth(variable, text) if name == "tls" else text
                names[name] = variable
        return Access(**given), names


VARIABLES = tuple(PREFIX + each.name.upper() for each in fields(Access))


class Entry:
    """What a client opens its channels and makes its calls with.

    credentials: of its channels; None for plain text. options: what they need beside.
    """

    def __init__(self, access: Access, address: str, environment: Mapping[str, str] = os.environ) -> None:
        """InvalidArgument if they contradict each other, or a file of them cannot be read."""
        given, names = access.or_of(environment)
        self._token = _token_of(given, names)
        files = {name: getattr(given, name) for name in ("tls_ca", "tls_cert", "tls_key", "tls_name")}
        asked = [name for name, value in files.items() if value is not None]
        tls = given.tls
        if tls is None:
            # A token is a secret: over a network it does not go in plain text, unless somebody says that it may.
            tls = bool(asked) or (self._token is not None and not _address.on_this_machine(address))
        elif not tls and asked:
            raise invalid(names["tls"], f"is false, and {names[asked[0]]} is given, which is for TLS: leave one out")
        self.credentials = _credentials(files, names) if tls else None
        self.options: list[tuple[str, Any]] = []
        if given.tls_name is not None:
            self.options.append(("grpc.ssl_target_name_override", given.tls_name))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self._token.text()}"),) if self._token is not None else ()


class _Token:
    """A token, or the file that holds it, which is read again when it has changed."""

    def __init__(self, name: str, text: str = "", file: Path | None = None) -> None:
        self._name, self._text, self._file = name, text, file
        self._read: tuple[int, int] | None = None
        if file is None:
            _check_token(name, text)
        else:
            self._load(file)

    def text(self) -> str:
        if self._file is not None:
            # While it is being replaced it may be away or empty: what it held last goes on to be sent.
            with suppress(InvalidArgument):
                self._load(self._file)
        return self._text

    def _load(self, file: Path) -> None:
        try:
            now = file.stat()
            if self._read == (now.st_mtime_ns, now.st_ino):
                return
            text = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise invalid(self._name, f"{file} cannot be read: {_why(error)}") from None
        _check_token(self._name, text)
        self._text, self._read = text, (now.st_mtime_ns, now.st_ino)


def _token_of(given: Access, names: Mapping[str, str]) -> _Token | None:
    if given.token and given.token_file is not None:
        raise invalid(names["token"], f"is given, and so is {names['token_file']}: leave one out")
    if given.token_file is not None:
        return _Token(names["token_file"], file=Path(given.token_file))
    # Empty: none, whatever the environment says.
    return _Token(names["token"], given.token) if given.token else None


def _check_token(name: str, text: str) -> None:
    if not _TOKEN.fullmatch(text):
        # Without the text itself: it is a secret, if not of this server.
        raise invalid(
            name, "holds no token; must be printable ASCII without spaces, as `ancestral-server token` makes it"
        )


def _credentials(files: Mapping[str, Any], names: Mapping[str, str]) -> grpc.ChannelCredentials:
    if files["tls_key"] is not None and files["tls_cert"] is None:
        raise invalid(names["tls_key"], "is given, and no tls_cert that it belongs to")
    ca, cert, key = (_content(names[name], files[name]) for name in ("tls_ca", "tls_cert", "tls_key"))
    _check_certificates(files, names)
    return grpc.ssl_channel_credentials(ca, cert if key is None else key, cert)


def _content(name: str, file: File | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise invalid(name, f"{file} cannot be read: {_why(error)}") from None


def _check_certificates(files: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """What is wrong with them gRPC would say in no other way than that it cannot connect."""
    ca, cert, key = files["tls_ca"], files["tls_cert"], files["tls_key"]
    if ca is None and cert is None:
        return
    import ssl  # takes a while, and few need it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError:
            raise invalid(names["tls_ca"], f"{ca} holds no certificate in PEM, which begins with -----BEGIN") from None
    if cert is not None:
        try:
            # A key with a password would be asked for on the terminal; gRPC takes none.
            context.load_cert_chain(cert, key, password="")
        except ssl.SSLError as error:
            where = f"{cert} and {key} are" if key else f"{cert} is"
            problem = f"{where} no certificate with its key in PEM, without a password ({error.reason or error})"
            raise invalid(names["tls_cert"], problem) from None


def _truth(variable: str, text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise invalid(variable, f"is {text!r}; must be true or false")


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text"
