"""Who asks: the admin token of the state folder, and tokens of service accounts.

Service account tokens are JSON Web Tokens signed with a key of the state folder (HS256), bound to the account's uid
and perhaps to a pod; they are valid as long as those exist. Authenticated is authorised: there is no RBAC.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.pki import write_private
from local_cluster.apiserver.resources import Manifest

ISSUER = "https://kubernetes.default.svc"
AUDIENCES = [ISSUER]


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated client, as ``UserInfo`` has it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict)

    def info(self) -> Manifest:
        """Build the ``UserInfo``."""
        info: Manifest = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = self.extra
        return info


ADMIN = User("kubernetes-admin", groups=("system:masters", "system:authenticated"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """Issues and checks tokens.

    Args:
        folder: the state folder; the admin token and the signing key are made there if absent.
        cluster: where service accounts and pods are.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._cluster = cluster
        self.admin_token = self._ensure(folder / "admin.token", secrets.token_urlsafe(32)).strip()
        self._key = bytes.fromhex(
            self._ensure(folder / "service-account.key", secrets.token_hex(32))
        )

    @staticmethod
    def _ensure(path: Path, fresh: str) -> str:
        if not path.exists():
            write_private(path, fresh.encode())
        return path.read_text(encoding="ascii")

    def authenticate(self, header: str) -> User | None:
        """Tell who sends an ``Authorization`` header, None for nobody known."""
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        return self.check_token(token)

    def check_token(self, token: str) -> User | None:
        """Tell whose token this is, None for nobody's."""
        if hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return ADMIN
        return self._check_account(token)

    def _check_account(self, token: str) -> User | None:
        try:
            head, body, signature = token.split(".")
            expected = hmac.digest(self._key, f"{head}.{body}".encode(), hashlib.sha256)
            if not hmac.compare_digest(_decode(signature), expected):
                return None
            claims: dict[str, Any] = orjson.loads(_decode(body))
            private = claims["kubernetes.io"]
            namespace, account = private["namespace"], private["serviceaccount"]
            if claims["exp"] < time.time():
                return None
        except (ValueError, KeyError, TypeError):
            return None
        stored = self._cluster.get("/serviceaccounts", namespace, account["name"])
        if stored is None or stored["metadata"]["uid"] != account["uid"]:
            return None
        extra: dict[str, list[str]] = {}
        bound = private.get("pod")
        if bound is not None:
            pod = self._cluster.get("/pods", namespace, bound["name"])
            if pod is None or pod["metadata"]["uid"] != bound["uid"]:
                return None
            extra["authentication.kubernetes.io/pod-name"] = [bound["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [bound["uid"]]
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        )
        return User(
            f"system:serviceaccount:{namespace}:{account['name']}", account["uid"], groups, extra
        )

    def issue(
        self, account: Manifest, audiences: list[str], seconds: int, bound: Manifest | None
    ) -> tuple[str, float]:
        """Issue a token for a service account.

        Args:
            account: the stored ServiceAccount.
            audiences: of the token; empty for the server itself.
            seconds: how long it is valid.
            bound: the pod that it is bound to, if any.

        Returns:
            The token, and when it expires, in seconds since the epoch.
        """
        now = int(time.time())
        metadata = account["metadata"]
        private: Manifest = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if bound is not None:
            private["pod"] = {"name": bound["metadata"]["name"], "uid": bound["metadata"]["uid"]}
        claims = {
            "aud": audiences or AUDIENCES,
            "exp": now + seconds,
            "iat": now,
            "iss": ISSUER,
            "jti": secrets.token_hex(16),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        head = _encode(orjson.dumps({"alg": "HS256", "typ": "JWT"}))
        body = _encode(orjson.dumps(claims))
        signature = hmac.digest(self._key, f"{head}.{body}".encode(), hashlib.sha256)
        return f"{head}.{body}.{_encode(signature)}", float(now + seconds)
