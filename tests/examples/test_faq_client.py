"""The FAQ client against a real TLS server on loopback."""

import importlib.util
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

FAQ = Path(__file__).parents[2] / "examples" / "faq"
HOST = "faq.models.example.com"
TRIPLES = [[101, 1001, 0.9], [102, 1002, 0.2]]


@pytest.fixture(scope="module")
def client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("faq_example_client", FAQ / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Endpoint(HTTPServer):
    wrapped = True
    seen: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen = {"path": self.path, "body": text, **dict(self.headers)}
        allowed = self.headers["Authorization"] == "Bearer right"
        answer = {"result": [TRIPLES, "Computed in 2.0 ms"]} if self.server.wrapped else TRIPLES
        payload = json.dumps(answer if allowed else {"message": "wrong key"}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def certificate(tmp_path: Path, self_signed: Callable[..., tuple[bytes, bytes]]) -> Path:
    path = tmp_path / "cert.pem"
    pem, private = self_signed(HOST, addresses=("127.0.0.2",))
    path.write_bytes(pem)
    path.with_name("key.pem").write_bytes(private)
    return path


@pytest.fixture
def endpoint(certificate: Path) -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        ["Id", "AnswerId", "Title", "Text", "Answer"],
        ["101", "1001", "Why the last value?", "text", 'Use "let".'],
        ["102", "1002", "What is a closure?", "text", "long " * 60],
    ]
    path = tmp_path / "questions.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def arguments(endpoint: Endpoint, certificate: Path, questions: Path, key: str) -> list[str]:
    return [
        "my loop prints 5", "--url", f"https://{HOST}", "--key", key, "--cacert", str(certificate),
        "--connect-to", f"127.0.0.1:{endpoint.server_port}", "--questions", str(questions),
    ]  # fmt: skip


@pytest.mark.parametrize("wrapped", [True, False])
def test_titles_and_answers_are_printed_best_first(
    client, endpoint, certificate, questions, capsys, wrapped
):
    endpoint.wrapped = wrapped
    assert client.main(arguments(endpoint, certificate, questions, "right")) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == " 90.0%  Why the last value?"
    assert lines[1].strip() == 'Use "let".'
    assert lines[3].endswith(" …")
    assert endpoint.seen["path"] == "/score"
    assert endpoint.seen["Host"] == HOST
    assert json.loads(endpoint.seen["body"]) == {"input": "my loop prints 5"}


def test_wrong_key_is_told_with_status_and_message(
    client, endpoint, certificate, questions, capsys
):
    assert client.main(arguments(endpoint, certificate, questions, "wrong")) == 1
    assert "answered 401" in capsys.readouterr().err


def test_untrusted_certificate_is_refused(client, endpoint, certificate, questions, capsys):
    options = arguments(endpoint, certificate, questions, "right")
    at = options.index("--cacert")
    del options[at : at + 2]
    assert client.main(options) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_plain_http_is_refused_before_the_key_leaves(client, questions, capsys):
    options = ["q", "--url", "http://127.0.0.1:1", "--key", "k", "--questions", str(questions)]
    assert client.main(options) == 1
    assert "https://" in capsys.readouterr().err


def test_missing_questions_file_says_what_to_do(client, tmp_path, capsys):
    options = ["q", "--url", "https://x.example", "--questions", str(tmp_path / "none.tsv")]
    assert client.main(options) == 1
    assert "train.py" in capsys.readouterr().err
