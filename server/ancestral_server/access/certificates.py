"""The certificates of TLS: read, held against each other, and as both of the server's ports take them."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from ancestral_server.access import files
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings

_ONE_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# What OpenSSL has against a certificate by its times (X509_V_ERR_...).
_NOT_YET_VALID, _EXPIRED = 9, 10


@dataclass(frozen=True)
class Certificates:
    """cert, key, client_ca: PEM, as gRPC takes them. context: of a port that Python serves. expires: Unix seconds."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    expires: float

    @staticmethod
    def read(settings: Settings) -> Certificates | None:
        """Those of the settings; None where there is no TLS. StartupError, naming flag and file, if they are unfit."""
        if settings.tls_cert is None:
            return None
        key_path, key_flag = settings.tls_key or settings.tls_cert, "--tls-key" if settings.tls_key else "--tls-cert"
        cert = files.read(settings.tls_cert, "--tls-cert")
        key = files.read(key_path, key_flag, secret=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A password would be asked for on the terminal, and gRPC takes no key that has one.
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
        except (ssl.SSLError, OSError) as error:
            raise StartupError(_no_pair(settings.tls_cert, key_flag, key_path, error)) from error
        expires = _expiry(context, settings.tls_cert, cert)
        client_ca = None
        if settings.tls_client_ca is not None:
            client_ca = files.read(settings.tls_client_ca, "--tls-client-ca")
            _demand_certificates(context, settings.tls_client_ca)
        return Certificates(cert, key, client_ca, context, expires)


def _no_pair(cert: Path, key_flag: str, key: Path, error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return (
            f"{key_flag} {key}: is not the key of the certificate --tls-cert {cert}; give the one that it was made with"
        )
    where = f"--tls-cert {cert}" + (f" and {key_flag} {key}" if key != cert else "")
    return f"{where}: no certificate with its key, in PEM and without a password ({reason})"


def _expiry(server: ssl.SSLContext, path: Path, pem: bytes) -> float:
    """When the certificate expires, Unix seconds. StartupError if no client could accept it, as if it has expired.

    Python tells of a certificate only after a handshake: so here is one, with a client that trusts this certificate.
    """
    first = _ONE_CERTIFICATE.search(pem.decode("latin-1"))
    if first is None:
        raise StartupError(f"--tls-cert {path}: holds nothing that begins with -----BEGIN CERTIFICATE-----")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=first[0])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        while True:
            try:
                asking.do_handshake()
                break
            except ssl.SSLWantReadError:
                try:
                    answering.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        known = {_EXPIRED: "has expired; renew it", _NOT_YET_VALID: "is not valid yet; is the clock right?"}
        problem = known.get(error.verify_code, f"no client would accept it: {error.verify_message}")
        raise StartupError(f"--tls-cert {path}: {problem}") from error
    except ssl.SSLError as error:
        raise StartupError(f"--tls-cert {path}: TLS does not work with it ({error.reason})") from error
    told = asking.getpeercert()
    assert told is not None, "it was verified"
    return ssl.cert_time_to_seconds(str(told["notAfter"]))


def _demand_certificates(context: ssl.SSLContext, path: Path) -> None:
    """Let a port hear only who brings a certificate that is signed by those of the file."""
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise StartupError(f"--tls-client-ca {path}: holds no certificates in PEM") from error
    context.verify_mode = ssl.CERT_REQUIRED
    authorities = context.get_ca_certs()
    if not authorities:
        raise StartupError(f"--tls-client-ca {path}: holds no certificate that may sign others")
    if all(ssl.cert_time_to_seconds(str(each["notAfter"])) < time.time() for each in authorities):
        raise StartupError(f"--tls-client-ca {path}: has expired; renew it")
