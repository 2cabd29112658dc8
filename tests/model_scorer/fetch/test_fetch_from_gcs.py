"""Google Cloud Storage, against an emulator; runs when TEST_GCS is set, in an environment with gcsfs and gcp-storage-emulator.

An environment of its own: gcsfs and s3fs each want an fsspec of their own month.
"""

import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server

from model_scorer.errors import ModelForbidden, ModelNotFound, ModelUnreachable

FOLDER = {
    "model.joblib": os.urandom(100_000),
    "score.py": b"code",
    "labels/a b.txt": b"x",
}
BIG = os.urandom(20 << 20)

pytestmark = pytest.mark.filterwarnings("default")  # the client libraries' own deprecations


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    port = server._api._httpd.server_address[1]
    url = f"http://127.0.0.1:{port}"
    requests.post(f"{url}/storage/v1/b", json={"name": "models"}, timeout=10).raise_for_status()
    for name, data in [*((f"faq/3/{n}", d) for n, d in FOLDER.items()), ("big.bin", BIG)]:
        requests.post(
            f"{url}/upload/storage/v1/b/models/o", data=data, timeout=10,
            params={"uploadType": "media", "name": name},
            headers={"Content-Type": "application/octet-stream"},
        ).raise_for_status()  # fmt: skip
    yield url
    server.stop()


@pytest.fixture
def gcs(endpoint: str, fetching: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without credentials: what everybody may read."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    return fetching


@pytest.mark.parametrize("uri", ["gs://models/faq/3/", "gcs://models/faq/3"])
def test_folder_is_fetched(uri: str, gcs: Any) -> None:
    gcs(uri)
    assert gcs.files == FOLDER


def test_object_in_parallel_pieces(gcs: Any) -> None:
    digest = hashlib.sha256(BIG).hexdigest()
    assert gcs("gs://models/big.bin", sha256=digest).digest == f"sha256:{digest}"
    assert gcs.files == {"big.bin": BIG}


@pytest.mark.parametrize("uri", ["gs://models/nothing", "gs://models/nothing/", "gs://nowhere/faq"])
def test_missing_object_and_bucket_are_not_found(uri: str, gcs: Any) -> None:
    with pytest.raises(ModelNotFound, match=uri.rstrip("/")):
        gcs(uri)
    gcs.assert_empty()


def test_store_that_is_down_is_unreachable(
    free_port: int, gcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port}")
    with pytest.raises(ModelUnreachable):
        gcs("gs://models/big.bin")


class TokenHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.assertions.append(form["assertion"][0])  # type: ignore[attr-defined]
        body = json.dumps({"access_token": "a-token", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def tokens() -> Iterator[Any]:
    """Google's token endpoint."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenHandler)
    server.assertions = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def service_account(tokens: Any) -> str:
    """The JSON key of a service account."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "reader@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{tokens.server_address[1]}/token",
        }
    )


def test_a_service_accounts_key_from_the_secret_is_used_and_never_told(
    gcs: Any, tokens: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = service_account(tokens)
    gcs.change(environ={"GOOGLE_CREDENTIALS": key})
    started = time.monotonic()
    gcs("gs://models/faq/3/")
    assert gcs.files == FOLDER
    assert len(tokens.assertions) >= 1
    assert "PRIVATE KEY" not in caplog.text
    assert "a-token" not in caplog.text
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("key", ["{", '{"type": "service_account"}', "[]"])
def test_a_malformed_key_is_forbidden(key: str, gcs: Any) -> None:
    gcs.change(environ={"GOOGLE_CREDENTIALS": key})
    with pytest.raises(ModelForbidden, match="malformed"):
        gcs("gs://models/big.bin")
