"""Self-signed certificates for a host, and a look at any certificate: does it fit, and until when."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scoring_operator.api import Manifest

# Clocks of clients may be late.
_BACKDATED = timedelta(minutes=5)
# The X.509 limit of a common name (RFC 5280, ub-common-name); names beyond it are in the SAN only.
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class CertificateView:
    """What a TLS Secret holds.

    Args:
        hosts: DNS names of the certificate.
        not_before: start of validity, with time zone.
        not_after: end of validity, with time zone.
        pem: the certificate.
        key_pem: the private key, which belongs to the certificate.
    """

    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    pem: bytes
    key_pem: bytes

    def covers(self, host: str) -> bool:
        """Whether the certificate is for this host, by name or by wildcard."""
        parent = host.partition(".")[2]
        return host in self.hosts or f"*.{parent}" in self.hosts

    def renew_at(self) -> datetime:
        """When two thirds of the validity are over."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3


def make_certificate(host: str, *, days: int, now: datetime) -> CertificateView:
    """Make a key and a self-signed certificate.

    Args:
        host: the only DNS name.
        days: validity.
        now: start of validity, with time zone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = host if len(host) <= _MAX_COMMON_NAME else "scoringmodel"
    not_before, not_after = now - _BACKDATED, now + timedelta(days=days)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return CertificateView((host,), not_before, not_after, pem, private)


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def read_certificate(secret: Manifest) -> CertificateView:
    """Look into a TLS Secret.

    Args:
        secret: with `tls.crt` and `tls.key`.

    Raises:
        ValueError: there is no certificate, no key, or they do not belong together; the message says which.
    """
    pem, key_pem = _decode(secret, "tls.crt"), _decode(secret, "tls.key")
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as err:
        raise ValueError("tls.crt is no PEM certificate") from err
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as err:
        raise ValueError("tls.key is no PEM private key without a password") from err
    if _public(key.public_key()) != _public(certificate.public_key()):
        raise ValueError("tls.key does not belong to tls.crt")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        hosts = tuple(names.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        hosts = ()
    return CertificateView(
        hosts=hosts,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        pem=pem,
        key_pem=key_pem,
    )


def _decode(secret: Manifest, name: str) -> bytes:
    try:
        value = base64.b64decode((secret.get("data") or {}).get(name) or "", validate=True)
    except binascii.Error as err:
        raise ValueError(f"{name} is not base64") from err
    if not value:
        raise ValueError(f"{name} is missing")
    return value


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]  # a union of key types
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
