"""TLS by server name: certificates from Secrets, and one of our own for unknown hosts."""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import ssl
import tempfile
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def build_default_certificate() -> bytes:
    """A self-signed certificate with its key, in PEM, for hosts nobody brought one for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Local Ingress Default Certificate")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def build_context(pem: bytes) -> ssl.SSLContext:
    """A server context from a certificate chain and key in PEM.

    Raises:
        ValueError: the certificate and the key cannot be used together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module takes certificates from a file only.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except (ssl.SSLError, OSError) as err:
            raise ValueError(f"certificate and key cannot be used: {err}") from err
    return context


class CertificateStore:
    """Contexts by host name; ``server_context`` picks one for each handshake."""

    def __init__(self) -> None:
        self._hosts: dict[str, ssl.SSLContext] = {}
        self._by_digest: dict[str, ssl.SSLContext] = {}
        self.server_context = build_context(build_default_certificate())
        self.server_context.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        context = self.find(name or "")
        if context is not None:
            connection.context = context

    def find(self, host: str) -> ssl.SSLContext | None:
        """The context for a host, exact or by wildcard."""
        host = host.lower()
        context = self._hosts.get(host)
        return context or self._hosts.get("*." + host.partition(".")[2])

    def update(self, secrets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Set which Secret serves which host.

        Args:
            secrets: the Secret by host name.

        Returns:
            What is wrong with a Secret, by host name.
        """
        hosts: dict[str, ssl.SSLContext] = {}
        used: dict[str, ssl.SSLContext] = {}
        problems: dict[str, str] = {}
        for host, secret in secrets.items():
            data = secret.get("data") or {}
            digest = hashlib.sha256(
                f"{data.get('tls.crt')}\0{data.get('tls.key')}".encode()
            ).hexdigest()
            context = used.get(digest) or self._by_digest.get(digest)
            if context is None:
                try:
                    context = build_context(
                        base64.b64decode(data["tls.crt"])
                        + b"\n"
                        + base64.b64decode(data["tls.key"])
                    )
                except KeyError as err:
                    problems[host] = f"the Secret has no {err.args[0]}"
                    continue
                except (ValueError, binascii.Error) as err:
                    problems[host] = str(err)
                    continue
            used[digest] = context
            hosts[host.lower()] = context
        self._hosts, self._by_digest = hosts, used
        return problems
