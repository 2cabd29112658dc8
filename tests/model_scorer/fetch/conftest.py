"""A web server on loopback that misbehaves on demand, and a fetch with little patience."""

import hashlib
import os
import re
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model_scorer.fetch import Fetched, FetchOptions, fetch_model
from model_scorer.fetch.options import TransferOptions
from model_scorer.fetch.retry import RetryPolicy
from model_scorer.fetch.web_session import WebOptions
from model_scorer.settings import Settings

# Tests against servers that a plain checkout has not: the variable says where the server is, and that they shall run.
NEEDS = {
    "test_fetch_from_azure.py": "TEST_AZURITE",
    "test_fetch_from_gcs.py": "TEST_GCS",
    "test_fetch_from_mlflow.py": "TEST_MLFLOW",
    "test_fetch_from_s3.py": "TEST_S3",
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    variable = NEEDS.get(collection_path.name)
    return True if variable and not os.environ.get(variable) else None


Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.path, dict(self.headers.items())))
        faults = self.server.faults[path]
        if faults:
            faults.popleft()(self)
            return
        self.answer()

    def do_CONNECT(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        self.send_error(502)

    def answer(
        self, *, cut_at: int | None = None, claim: int = 0, headers: dict[str, str] | None = None
    ) -> None:
        """Send the file, or a part of it and close; `claim` is added to Content-Length."""
        content = self.server.files.get(self.path.partition("?")[0])
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match and self.server.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(match[1])
            end = min(int(match[2] or len(content) - 1), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            body = content[start : end + 1]
        else:
            self.send_response(200)
            body = content
        self.send_header("Content-Length", str(len(body) + claim))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", etag)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body if cut_at is None else body[:cut_at])
        except OSError:
            self.close_connection = True
        if cut_at is not None or claim:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ranges = True

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


def status(code: int, **headers: str) -> Fault:
    def fault(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return fault


@dataclass
class Fetching:
    """Fetches into `model_dir`, with options that a test may change."""

    model_dir: Path
    options: FetchOptions
    sleeps: list[float] = field(default_factory=list)

    def __call__(self, uri: str, *, sha256: str = "") -> Fetched:
        settings = Settings(model_uri=uri, model_sha256=sha256, model_dir=self.model_dir)
        return fetch_model(settings, self.options)

    def change(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)

    def change_transfer(self, **changes: Any) -> None:
        self.change(transfer=replace(self.options.transfer, **changes))

    @property
    def files(self) -> dict[str, bytes]:
        """What is in the model folder, without the record of the fetch."""
        return {
            str(path.relative_to(self.model_dir)): path.read_bytes()
            for path in sorted(self.model_dir.rglob("*"))
            if path.is_file() and path.name != ".fetched.json"
        }

    def assert_empty(self) -> None:
        assert not self.model_dir.exists() or list(self.model_dir.iterdir()) == []


def start_server(address: str) -> Iterator[Server]:
    server = Server(address)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from start_server("127.0.0.1")


@pytest.fixture
def other_server() -> Iterator[Server]:
    """A second server on another loopback address: another host."""
    yield from start_server("127.0.0.2")


@pytest.fixture
def fault() -> Callable[..., Fault]:
    """Makes a fault that answers with a status and headers."""
    return status


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(
        tmp_path / "model",
        FetchOptions(
            retry=RetryPolicy(attempts=3, first_delay_seconds=0.001, max_delay_seconds=0.01),
            web=WebOptions(connect_timeout_seconds=5, read_timeout_seconds=5, environ={}),
            transfer=TransferOptions(),
            source_dir=tmp_path / "source",
            environ={},
        ),
    )


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
