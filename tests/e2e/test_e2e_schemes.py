"""Every kind of model URI that can be served here, from `kubectl apply` to a scored request; and the faults on the way.

Azure Blob Storage and S3 have files of their own: they need servers that a plain checkout has not.
"""

import hashlib
import http.server
import io
import json
import pickle
import ssl
import tarfile
import threading
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

ROW = b'{"data": [[5.1, 3.5, 1.4, 0.2]]}'

Fault = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Source"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization", "")))
        faults = self.server.faults[self.path]
        (faults.popleft() if faults else Handler.answer)(self)

    def answer(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        pass


class Source(http.server.ThreadingHTTPServer):
    """A web server with files, and with faults that each hit one request."""

    daemon_threads = True

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__((address, 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[tuple[str, str]] = []
        self.url = f"http{'s' if context else ''}://{address}:{self.server_address[1]}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def running(address: str, context: ssl.SSLContext | None = None) -> Iterator[Source]:
    source = Source(address, context)
    thread = threading.Thread(target=source.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield source
    finally:
        source.shutdown()
        thread.join()
        source.server_close()


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running("127.0.0.1") as started:
        yield started


@pytest.fixture(scope="module")
def other_source() -> Iterator[Source]:
    """Another host."""
    with running("127.0.0.2") as started:
        yield started


def answer_with(status: int, **headers: str) -> Fault:
    def fault(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return fault


def trickle(handler: Handler) -> None:
    """A byte at a time, and then the connection is gone."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(5):
        handler.wfile.write(b"x")
        handler.wfile.flush()
    handler.close_connection = True


Files = dict[str, bytes]


def pack_tar(files: Files, top: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(top + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def pack_zip(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def list_sums(files: Files) -> bytes:
    """The folder's listing, whose digest is the folder's."""
    lines = [f"{sha256(data)}  ./{name}\n" for name, data in sorted(files.items())]
    return "".join(lines).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def iris() -> Files:
    features, target = load_iris(return_X_y=True)
    buffer = io.BytesIO()
    joblib.dump(LogisticRegression(max_iter=1000).fit(features, target), buffer)
    return {"iris.joblib": buffer.getvalue(), "model.yaml": b"{}\n", "notes.txt": b"three kinds"}


def write(files: Files, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def assert_serves(client: Any, name: str, digest: str) -> None:
    """The model is ready, scores, and says whose bytes it runs."""
    client.wait_ready(name)
    status, headers, body = client.request(name, body=ROW)
    assert (status, json.loads(body)) == (200, [0])
    assert headers["x-model-digest"] == f"sha256:{digest}"
    assert client.get("scoringmodel", name)["status"]["modelDigest"] == f"sha256:{digest}"


def test_a_file_and_a_folder_on_the_nodes_disk(client: Any, iris: Files, tmp_path: Path) -> None:
    write(iris, tmp_path)
    client.apply_model("file", modelURI=(tmp_path / "iris.joblib").as_uri(), framework="sklearn")
    client.apply_model("folder", modelURI=f"{tmp_path.as_uri()}/", framework="sklearn")
    assert_serves(client, "file", sha256(iris["iris.joblib"]))
    assert_serves(client, "folder", sha256(list_sums(iris)))


@pytest.mark.parametrize("form", ["file", "tar.gz", "zip", "folder"])
def test_over_http(client: Any, iris: Files, source: Source, form: str) -> None:
    forms = {
        "file": ("/m/iris.joblib", iris["iris.joblib"]),
        "tar.gz": ("/m/iris.tar.gz", pack_tar(iris, "iris/")),
        "zip": ("/m/iris.zip", pack_zip(iris)),
        "folder": ("/m/iris/", list_sums(iris)),
    }
    path, content = forms[form]
    if form == "folder":
        source.files |= {f"{path}{name}": data for name, data in iris.items()}
        source.files[f"{path}SHA256SUMS"] = content
    else:
        source.files[path] = content

    client.apply_model(
        "iris", modelURI=f"{source.url}{path}", framework="sklearn", sha256=sha256(content)
    )

    assert_serves(client, "iris", sha256(content))


def test_over_https_with_a_private_authority(
    client: Any,
    iris: Files,
    tmp_path: Path,
    self_signed: Callable[..., tuple[bytes, bytes]],
) -> None:
    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    for path, pem in zip(
        (certificate, key), self_signed(addresses=("127.0.0.1",), authority=True), strict=True
    ):
        path.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with running("127.0.0.1", context) as source:
        source.files["/iris.joblib"] = iris["iris.joblib"]
        uri = f"{source.url}/iris.joblib"

        client.apply_model("strict", modelURI=uri, framework="sklearn")
        condition = client.wait_for_reason("strict", "ModelUnreachable")
        assert "certificate" in condition["message"]

        client.kubectl("create", "configmap", "ca", f"--from-file=ca.crt={certificate}")
        client.apply_model(
            "iris", modelURI=uri, framework="sklearn", caBundle={"configMapName": "ca"}
        )
        assert_serves(client, "iris", sha256(iris["iris.joblib"]))


def test_from_a_volume_claim(client: Any, iris: Files) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shelf"},
        "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    done = client.try_apply(claim)
    assert done.returncode == 0, done.stderr
    client.kubectl("wait", "pvc/shelf", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
    volume = client.get("pvc", "shelf")["spec"]["volumeName"]
    write(iris, Path(client.get("pv", volume)["spec"]["hostPath"]["path"]) / "models" / "iris")

    client.apply_model("iris", modelURI="pvc://shelf/models/iris/", framework="sklearn")
    client.apply_model("lost", modelURI="pvc://shelf/models/rose/", framework="sklearn")

    assert_serves(client, "iris", sha256(list_sums(iris)))
    client.wait_for_reason("lost", "ModelNotFound")


def test_an_image_that_cannot_be_pulled_ends_in_its_reason(client: Any) -> None:
    image = "registry.example.com/models/faq:3"

    client.apply_model("boxed", modelURI=f"oci://{image}", framework="sklearn")
    condition = client.wait_for_reason("boxed", "ImagePull")

    assert f"the model's image {image}" in condition["message"]
    assert "spec.modelURI" in condition["message"]


def test_a_model_above_its_size_limit_is_refused(client: Any, source: Source) -> None:
    source.files["/large/model.joblib"] = bytes(11 << 20)

    client.apply_model(
        "large",
        modelURI=f"{source.url}/large/model.joblib",
        framework="sklearn",
        storage={"sizeLimit": "10Mi"},
    )
    condition = client.wait_for_reason("large", "DiskFull")

    assert "11.0 MiB" in condition["message"]
    assert "spec.storage.sizeLimit is 10Mi" in condition["message"]


def test_a_busy_server_is_waited_for(client: Any, source: Source, iris: Files) -> None:
    source.files["/busy/iris.joblib"] = iris["iris.joblib"]
    source.faults["/busy/iris.joblib"].extend(
        [answer_with(503, Retry_After="1"), answer_with(429, Retry_After="1"), trickle]
    )

    client.apply_model("iris", modelURI=f"{source.url}/busy/iris.joblib", framework="sklearn")

    assert_serves(client, "iris", sha256(iris["iris.joblib"]))
    assert not source.faults["/busy/iris.joblib"]


def test_credentials_go_to_the_host_of_the_uri_alone(
    client: Any, source: Source, other_source: Source, iris: Files
) -> None:
    other_source.files["/elsewhere/iris.joblib"] = iris["iris.joblib"]
    source.faults["/moved/iris.joblib"].append(
        answer_with(302, Location=f"{other_source.url}/elsewhere/iris.joblib")
    )
    client.kubectl(
        "create", "secret", "generic", "token", "--from-literal=HTTP_BEARER_TOKEN=hidden-word"
    )

    client.apply_model(
        "iris",
        modelURI=f"{source.url}/moved/iris.joblib",
        framework="sklearn",
        storage={"secretName": "token"},
    )

    assert_serves(client, "iris", sha256(iris["iris.joblib"]))
    assert ("/moved/iris.joblib", "Bearer hidden-word") in source.requests
    assert ("/elsewhere/iris.joblib", "") in other_source.requests
    told = client.kubectl("logs", "deployment/iris", "-c", "fetch")
    told += client.kubectl("get", "scoringmodel,deployment,pod,event", "-o", "yaml")
    assert "hidden-word" not in told


def test_only_what_the_owner_of_the_key_signed_is_served(
    client: Any, source: Source, iris: Files, tmp_path: Path
) -> None:
    model_signing = pytest.importorskip("model_signing")
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    key = ec.generate_private_key(ec.SECP256R1())
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
    folder = write(iris, tmp_path / "iris")
    model_signing.signing.Config().use_elliptic_key_signer(private_key=private).sign(
        folder, tmp_path / "model.sig"
    )
    signed = iris | {"model.sig": (tmp_path / "model.sig").read_bytes()}
    source.files["/signed.tgz"] = pack_tar(signed)
    source.files["/changed.tgz"] = pack_tar(signed | {"score.py": b"import os"})
    source.files["/unsigned.tgz"] = pack_tar(iris)
    client.kubectl("create", "configmap", "signer", f"--from-file={public}")

    for name in ("signed", "changed", "unsigned"):
        client.apply_model(
            name,
            modelURI=f"{source.url}/{name}.tgz",
            framework="sklearn",
            signatureKey={"configMapName": "signer"},
        )

    assert_serves(client, "signed", sha256(source.files["/signed.tgz"]))
    assert "score.py" in client.wait_for_reason("changed", "SignatureInvalid")["message"]
    assert "model.sig" in client.wait_for_reason("unsigned", "SignatureInvalid")["message"]


def test_a_package_that_the_model_needs_and_the_image_lacks_is_named(
    client: Any, tmp_path: Path
) -> None:
    write(
        {
            "score.py": b"def init(): pass\ndef run(data): return 1\n",
            "requirements.txt": b"numpy\na-package-that-nobody-has==1\n",
        },
        tmp_path,
    )

    client.apply_model("m", modelURI=tmp_path.as_uri(), framework="python")
    condition = client.wait_for_reason("m", "MissingDependency")

    assert "a-package-that-nobody-has" in condition["message"]
    assert "numpy" not in condition["message"]


class WritesAFile:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "executed")


@dataclass
class Bad:
    """A model that must not serve."""

    reason: str
    words: str
    content: bytes = b""
    suffix: str = "joblib"
    fault: Fault | None = None
    sha256: str = ""


def bad_models(canary: Path) -> dict[str, Bad]:
    return {
        "digest": Bad("DigestMismatch", "0000", b"other bytes", sha256="0" * 64),
        "tar-slip": Bad(
            "LoadFailed",
            "slipped-out",
            pack_tar({"score.py": b"pass", "../../../../slipped-out.py": b"pass"}),
            "tar.gz",
        ),
        "zip-slip": Bad(
            "LoadFailed",
            "slipped-out",
            pack_zip({"score.py": b"pass", "../../../../slipped-out.py": b"pass"}),
            "zip",
        ),
        "pickle": Bad("UnsafePickle", "pathlib", pickle.dumps(WritesAFile(canary)), "pkl"),
        "truncated": Bad("LoadFailed", "", pickle.dumps(list(range(10_000)))[:9_000], "pkl"),
        "metadata-service": Bad(
            "ModelForbidden",
            "link-local",
            fault=answer_with(302, Location="http://169.254.169.254/latest"),
        ),
        "cut": Bad("ModelUnreachable", "broke off", fault=trickle),
        "gone": Bad("ModelNotFound", "410", fault=answer_with(410)),
        "busy-for-long": Bad(
            "ModelUnreachable", "503", fault=answer_with(503, Retry_After="86400")
        ),
    }


@pytest.mark.parametrize("case", list(bad_models(Path())))
def test_a_bad_source_ends_in_its_reason_and_leaves_nothing_behind(
    client: Any, cluster: Any, source: Source, tmp_path: Path, case: str
) -> None:
    bad = bad_models(tmp_path / "canary")[case]
    path = f"/bad/{case}.{bad.suffix}"
    source.files[path] = bad.content
    if bad.fault:
        source.faults[path].extend([bad.fault] * 100)

    client.apply_model(
        "m",
        modelURI=f"{source.url}{path}",
        framework="sklearn",
        **({"sha256": bad.sha256} if bad.sha256 else {}),
    )
    condition = client.wait_for_reason("m", bad.reason, timeout_seconds=90)

    assert bad.words in condition["message"]
    assert not (tmp_path / "canary").exists()
    state = Path(cluster.state_dir)
    assert not [*state.rglob("slipped-out*"), *state.parent.glob("slipped-out*")]
    if case not in (
        "pickle",
        "truncated",
    ):  # refused by fetch, so that serve has nothing to look at
        kept = state.glob(f"**/pods/{client.namespace}_*/**/.fetched.json")
        assert list(kept) == []
