"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and of its key."""

    cert: Path
    key: Path

    def flags(self) -> tuple[str, ...]:
        """Of a server that has it."""
        return ("--tls-cert", str(self.cert), "--tls-key", str(self.key))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(text: str) -> x509.GeneralName:
    if text.startswith("/"):
        return x509.DirectoryName(_name(text[1:]))
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.UniformResourceIdentifier(text) if "://" in text else x509.DNSName(text)


class Authority:
    """Signs certificates; its own is in the file `ca`."""

    def __init__(self, folder: Path, name: str = "authority", *, expired: bool = False) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        cert = self._signed(name, self._key.public_key(), [(basic, True)], expired=expired)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(cert)

    def issue(
        self, file: str, *names: str, common: str = "somebody", expired: bool = False, early: bool = False
    ) -> Pair:
        """A certificate of these alternative names (DNS, IP, URI, /DIRECTORY), or of the common one alone; the key is
        the owner's to read.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        more: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca=False, path_length=None), True)]
        if names:
            more.append((x509.SubjectAlternativeName(list(map(_alternative, names))), False))
        pair = Pair(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        pair.cert.write_bytes(self._signed(common, key.public_key(), more, expired=expired, early=early))
        pair.key.touch(0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
        *,
        expired: bool,
        early: bool = False,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self._name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + DAY if early else now - 3 * DAY)
            .not_valid_after(now - DAY if expired else now + (2 * DAY if early else DAY))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
