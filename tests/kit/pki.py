"""A certificate authority of a test's own, and what it signs: true, or wrong in one way."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
PROTOCOL = "flyproxy"


def now() -> datetime:
    return datetime.now(UTC)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Authority:
    """Writes into ``folder``: ``ca.pem``, for each host HOST.pem and HOST.key. ``above``: who signed this one, and is
    trusted in its place; its own certificate goes along with those that it signs."""

    def __init__(self, folder: Path, name: str = "ca", above: Authority | None = None) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of {folder.name}")])
        built = (above or self)._build(self.subject, self.key, now() - DAY, now() + 30 * DAY)
        built = built.add_extension(x509.BasicConstraints(True, None), critical=True)
        own = built.sign((above or self).key, hashes.SHA256()).public_bytes(Encoding.PEM)
        self.ca, self.along = above.ca if above else folder / f"{name}.pem", own if above else b""
        if above is None:
            self.ca.write_bytes(own)

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
        )  # fmt: skip

    def sign(
        self, *names: str, file: str = "", begins: datetime | None = None, ends: datetime | None = None
    ) -> dict[str, str]:
        """A key and a certificate for the names; the [backhaul] settings that name both and the CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        built = self._build(subject, key, begins or now() - DAY, ends or now() + 20 * DAY)
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        cert, private = (self.folder / f"{file or names[0]}.{kind}" for kind in ("pem", "key"))
        cert.write_bytes(built.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM) + self.along)
        private.write_bytes(pem(key))
        return {"ca": str(self.ca), "cert": str(cert), "key": str(private)}


def context(files: dict[str, str], server: bool = False) -> ssl.SSLContext:
    """Python's side of a connection, as docs/backhaul.md wants it."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(files["ca"])
    made.load_cert_chain(files["cert"], files["key"])
    made.set_alpn_protocols([PROTOCOL])
    if server:
        made.num_tickets = 0
    return made
