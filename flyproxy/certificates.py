"""The certificate by which other hosts know this one (`[backhaul] ca`, `cert`, `key`): read, and tried before use.

Only the master reads the files, while it may; its workers get the texts with their boot message and nowhere else.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from flyproxy.settings import Backhaul

WARN_DAYS = 14  # before the end
DATE = "%Y-%m-%d %H:%M UTC"


class CertificateError(ValueError):
    """One of the files cannot be used. ``key`` is the key of [backhaul] that names it; ``fix`` how to mend it."""

    def __init__(self, key: str, file: str, why: str, fix: str) -> None:
        super().__init__(f"'{key}' in [backhaul]: {file} {why}")
        self.key = key
        self.fix = fix


class Pem(NamedTuple):
    """The three files as they were read."""

    ca: bytes
    cert: bytes
    key: bytes


@dataclass(frozen=True)
class Certificate:
    """A usable key and certificate; whether it is *valid* is for ``judge``."""

    files: Backhaul
    pem: Pem = field(repr=False)
    leaf: x509.Certificate

    @property
    def expires(self) -> datetime:
        return self.leaf.not_valid_after_utc

    @property
    def names(self) -> list[str]:
        """The DNS names that it is for."""
        try:
            found = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return []
        return found.value.get_values_for_type(x509.DNSName)


def read(files: Backhaul) -> Certificate | None:
    """What the three files hold; None when none is named. Raises CertificateError."""
    if not files.cert:
        return None
    pem = Pem(*(_content(name, getattr(files, name)) for name in Pem._fields))
    _certificates("ca", files.ca, pem.ca)
    leaf = _certificates("cert", files.cert, pem.cert)[0]
    if _public(_private(files.key, pem.key)) != leaf.public_key().public_bytes(Encoding.DER, _SPKI):
        raise CertificateError("key", files.key, f"does not belong to the certificate {files.cert}",
                               "put the key there that the certificate was made for, or have a new one signed")
    return Certificate(files, pem, leaf)


def judge(certificate: Certificate, host: str, now: datetime | None = None) -> CertificateError | None:
    """Why other hosts would not believe that we are ``host``; None when they would."""
    files, leaf = certificate.files, certificate.leaf
    now = now or datetime.now(UTC)
    again = "have a new one signed, then: flyproxyctl reload --workers"
    if now > certificate.expires:
        return CertificateError("cert", files.cert, f"expired on {certificate.expires:{DATE}}", again)
    if now < leaf.not_valid_before_utc:
        return CertificateError("cert", files.cert, f"is not valid before {leaf.not_valid_before_utc:{DATE}}",
                                "set the clock of this host, or have a new one signed")
    if host not in certificate.names:
        named = ", ".join(certificate.names) or "nobody"
        return CertificateError("cert", files.cert, f"is for {named}, not for this host, {host}",
                                f"have one signed with the subjectAltName DNS:{host}, or set 'host' to its name")
    why = _refusal(files, host)
    if why:
        return CertificateError("cert", files.cert, f"is not believed by who trusts {files.ca}: {why}",
                                "give every host the CA that signed the certificates, and 'cert' what is between")
    return None


def _content(name: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateError(name, file, f"cannot be read: {error.strerror}",
                               f"check the path: ls -l {file}") from error


def _certificates(name: str, file: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(name, file, f"holds no certificate in PEM: {error}",
                               f"look at it: openssl x509 -noout -text -in {file}") from error


def _private(file: str, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:  # TypeError: it wants a pass phrase
        raise CertificateError("key", file, f"holds no private key in PEM without a pass phrase: {error}",
                               f"look at it: openssl pkey -noout -in {file}") from error


_SPKI = PublicFormat.SubjectPublicKeyInfo


def _public(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, _SPKI)


def _refusal(files: Backhaul, host: str) -> str:
    """What OpenSSL says to the certificate when it is shown to its own owner, in both roles; empty: nothing."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client = _context(ssl.PROTOCOL_TLS_CLIENT, files).wrap_bio(down, up, server_hostname=host)
        server = _context(ssl.PROTOCOL_TLS_SERVER, files).wrap_bio(up, down, server_side=True)
        for end in (client, server, client, server):  # a hello each way, then what each makes of the certificate
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason or str(error)
    return ""


def _context(protocol: ssl._SSLMethod, files: Backhaul) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key, password="")
    return context
