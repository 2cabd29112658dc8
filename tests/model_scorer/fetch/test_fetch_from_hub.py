"""The Hugging Face Hub, by a server that speaks the part of its HTTP API that its own client asks for."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from model_scorer.errors import ModelForbidden, ModelNotFound, SignatureInvalid

pytest.importorskip("huggingface_hub")

REPOSITORY = "acme/faq"
TOKEN = "hf_hidden"
BIG = bytes(range(256)) * (10 << 12)  # more than one piece
Files = dict[str, bytes]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Hub"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Authorization", "")))
        self.server.answer(self, path)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply(404, b"{}")

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_with_range(self, content: bytes, **headers: str) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not match:
            self.reply(200, content, **headers)
            return
        start, end = int(match[1]), min(int(match[2]), len(content) - 1)
        content_range = f"bytes {start}-{end}/{len(content)}"
        self.reply(206, content[start : end + 1], Content_Range=content_range, **headers)


class Hub(http.server.ThreadingHTTPServer):
    """Commits of one repository, branches that point to them; large files lie on another host."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), Handler)
        self.url = f"http://{address}:{self.server_address[1]}"
        self.commits: dict[str, Files] = {}
        self.branches: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.content: Hub | None = None
        self.moves_after_resolving: dict[str, str] = {}

    def commit(self, files: Files, branch: str = "main") -> str:
        sha = hashlib.sha1(json.dumps(sorted(map(str, files.items()))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def answer(self, handler: Handler, path: str) -> None:
        if path.startswith("/content/"):
            assert self.content is None
            handler.reply_with_range(self.commits[path.split("/")[2]][path.split("/", 3)[3]])
            return
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            handler.reply(401, b'{"error": "no"}', X_Error_Code="GatedRepo")
            return
        api = re.fullmatch(
            rf"/api/models/{REPOSITORY}(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path
        )
        if api:
            sha = self.branches.get(api[2] or "main", api[2] or "")
            if sha not in self.commits:
                handler.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            elif api[1] == "tree":
                self.list_tree(handler, sha, api[3] or "")
            else:
                self.branches.update(self.moves_after_resolving)
                handler.reply(200, json.dumps({"id": REPOSITORY, "sha": sha}).encode())
            return
        file = re.fullmatch(rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", path)
        content = self.commits.get(file[1], {}).get(file[2]) if file else None
        if file is None or content is None:
            handler.reply(
                404, b"{}", X_Error_Code="RepoNotFound" if file is None else "EntryNotFound"
            )
        elif self.content is not None:
            to = f"{self.content.url}/content/{file[1]}/{file[2]}"
            handler.reply(302, b"", Location=to)
        else:
            handler.reply_with_range(content)

    def list_tree(self, handler: Handler, sha: str, folder: str) -> None:
        entries: dict[str, dict[str, Any]] = {}
        recursive = "recursive=True" in handler.path or "recursive=true" in handler.path
        prefix = f"{folder}/" if folder else ""
        for name, content in self.commits[sha].items():
            if not name.startswith(prefix):
                continue
            inside = name.removeprefix(prefix)
            oid = hashlib.sha1(content).hexdigest()
            parts = inside.split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                path = prefix + "/".join(parts[:depth])
                entries[path] = {"type": "directory", "path": path, "oid": oid, "size": 0}
            if recursive or len(parts) == 1:
                entries[name] = {"type": "file", "path": name, "oid": oid, "size": len(content)}
        if not entries:
            handler.reply(404, b"{}", X_Error_Code="EntryNotFound")
        else:
            handler.reply(200, json.dumps(list(entries.values())).encode())


@contextmanager
def running(address: str) -> Iterator[Hub]:
    hub = Hub(address)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


@pytest.fixture
def hub(fetching: Any) -> Iterator[Hub]:
    with running("127.0.0.1") as started:
        fetching.change(environ={"HF_ENDPOINT": started.url, "HF_TOKEN": TOKEN})
        yield started


FILES = {"config.json": b"{}", "weights/model.bin": BIG, "weights/a b.txt": b"x", "empty": b""}


@pytest.mark.parametrize("uri", [f"hf://{REPOSITORY}", f"hf://{REPOSITORY}@main/"])
def test_a_repository_is_fetched(uri: str, hub: Hub, fetching: Any) -> None:
    hub.commit(FILES)
    fetching(uri)
    assert fetching.files == FILES


def test_a_folder_and_a_file_of_a_tag_are_fetched(hub: Hub, fetching: Any) -> None:
    hub.commit(FILES, "v1")
    hub.commit({"config.json": b"newer"})
    fetching(f"hf://{REPOSITORY}@v1/weights/")
    assert fetching.files == {"model.bin": BIG, "a b.txt": b"x"}
    digest = hashlib.sha256(BIG).hexdigest()
    assert fetching(f"hf://{REPOSITORY}@v1/weights/model.bin", sha256=digest).digest.endswith(
        digest
    )
    assert fetching.files == {"model.bin": BIG}


def test_a_branch_that_moves_meanwhile_does_not_mix_two_commits(hub: Hub, fetching: Any) -> None:
    newer = hub.commit({"config.json": b"newer", "score.py": b"newer"})
    hub.commit({"config.json": b"older", "score.py": b"older"})
    hub.moves_after_resolving = {"main": newer}
    fetching(f"hf://{REPOSITORY}")
    assert set(fetching.files.values()) == {b"older"}
    asked = [path for path, _ in hub.requests if "/resolve/" in path or "/tree/" in path]
    assert asked
    assert not [path for path in asked if "/main" in path]


def test_the_token_is_not_sent_to_the_host_where_large_files_lie(hub: Hub, fetching: Any) -> None:
    with running("127.0.0.2") as content:
        hub.content = content
        hub.commit(FILES)
        content.commits = hub.commits
        fetching(f"hf://{REPOSITORY}")
    assert fetching.files == FILES
    assert len(content.requests) >= 4
    assert {token for _, token in content.requests} == {""}


def test_without_its_token_a_repository_is_forbidden(hub: Hub, fetching: Any) -> None:
    hub.commit(FILES)
    fetching.change(environ={"HF_ENDPOINT": hub.url})
    with pytest.raises(ModelForbidden, match=REPOSITORY):
        fetching(f"hf://{REPOSITORY}")
    fetching.assert_empty()


@pytest.mark.parametrize("uri", [f"hf://{REPOSITORY}@v9", f"hf://{REPOSITORY}/nothing.bin"])
def test_what_is_not_there_is_not_found(uri: str, hub: Hub, fetching: Any) -> None:
    hub.commit(FILES)
    with pytest.raises(ModelNotFound, match=REPOSITORY):
        fetching(uri)
    fetching.assert_empty()


def test_the_token_is_in_no_message_and_no_log(
    hub: Hub, fetching: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hub.commit(FILES)
    fetching(f"hf://{REPOSITORY}")
    with pytest.raises(ModelNotFound) as caught:
        fetching(f"hf://{REPOSITORY}@v9")
    assert TOKEN not in caplog.text + caught.value.message + caught.value.hint


def test_a_signature_is_of_the_commit_that_its_model_is_of(
    hub: Hub, fetching: Any, tmp_path: Any
) -> None:
    model_signing = pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    file, signature = tmp_path / "config.json", tmp_path / "config.json.sig"
    file.write_bytes(b"older")
    model_signing.signing.Config().use_elliptic_key_signer(private_key=private).sign(
        file, signature
    )
    newer = hub.commit({"config.json": b"newer", "config.json.sig": b"of the newer"})
    hub.commit({"config.json": b"older", "config.json.sig": signature.read_bytes()})
    hub.moves_after_resolving = {"main": newer}
    fetching.change(signature_key=public)

    fetching(f"hf://{REPOSITORY}/config.json")

    assert fetching.files == {"config.json": b"older"}
    assert len([path for path, _ in hub.requests if path.endswith("/revision/main")]) == 1


def test_a_signature_beside_a_file_is_looked_for(hub: Hub, fetching: Any, tmp_path: Any) -> None:
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "key.pub").write_bytes(
        key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    hub.commit(FILES)
    fetching.change(signature_key=tmp_path / "key.pub")
    with pytest.raises(SignatureInvalid, match=r"config\.json\.sig"):
        fetching(f"hf://{REPOSITORY}/config.json")
