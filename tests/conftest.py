"""What all tests share: hypothesis profiles (`pytest --hypothesis-profile=long` looks longer) and certificates."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings

settings.register_profile("long", max_examples=300, deadline=None)


def make_self_signed(
    *names: str, addresses: tuple[str, ...] = (), authority: bool = False
) -> tuple[bytes, bytes]:
    """A certificate of today for hosts and addresses, and its key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, (*names, "test")[0])])
    now = datetime.datetime.now(datetime.UTC)
    known_as = [
        *map(x509.DNSName, names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(known_as), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.fixture(scope="session")
def self_signed() -> Callable[..., tuple[bytes, bytes]]:
    """See `make_self_signed`."""
    return make_self_signed
