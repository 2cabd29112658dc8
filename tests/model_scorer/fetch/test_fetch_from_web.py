import hashlib
import json
import os
import threading
import time
from typing import Any

import pytest

from model_scorer.errors import (
    DigestMismatch,
    DiskFull,
    InvalidSpec,
    LoadFailed,
    ModelForbidden,
    ModelNotFound,
    ModelUnreachable,
    ScorerError,
)
from model_scorer.fetch import sink
from model_scorer.fetch.addresses import Network, Zone, zone_of
from model_scorer.fetch.retry import RetryPolicy
from model_scorer.fetch.web_session import WebOptions

MODEL = bytes(range(256)) * 1200  # 300 KiB: more than one read
DIGEST = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def uri(server: Any) -> str:
    server.files["/model.joblib"] = MODEL
    return f"{server.url}/model.joblib"


def test_file_lands_under_its_name_with_its_digest(uri: str, fetching: Any) -> None:
    fetched = fetching(uri)
    assert fetching.files == {"model.joblib": MODEL}
    assert (fetched.digest, fetched.size_bytes, fetched.files) == (
        f"sha256:{DIGEST}",
        len(MODEL),
        1,
    )
    record = json.loads((fetching.model_dir / ".fetched.json").read_text())
    assert record == {"uri": uri, "digest": f"sha256:{DIGEST}", "bytes": len(MODEL), "files": 1}


def test_expected_digest_is_accepted_and_any_other_refused(uri: str, fetching: Any) -> None:
    fetching(uri, sha256=DIGEST)
    with pytest.raises(DigestMismatch) as caught:
        fetching(uri, sha256="0" * 64)
    assert DIGEST in caught.value.message
    assert "0" * 64 in caught.value.message
    fetching.assert_empty()


def test_empty_file_is_fetched(server: Any, fetching: Any) -> None:
    server.files["/empty"] = b""
    assert fetching(f"{server.url}/empty").digest == f"sha256:{hashlib.sha256(b'').hexdigest()}"


def test_query_is_sent_and_never_told(
    server: Any, fetching: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/m"] = MODEL
    caplog.set_level("DEBUG")
    fetched = fetching(f"{server.url}/m?version=SECRETISH")
    assert server.requests[0][0] == "/m?version=SECRETISH"
    told = fetched.message + caplog.text + (fetching.model_dir / ".fetched.json").read_text()
    assert "SECRETISH" not in told


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (404, ModelNotFound),
        (410, ModelNotFound),
        (401, ModelForbidden),
        (403, ModelForbidden),
        (407, ModelForbidden),
        (400, ModelUnreachable),
        (416, ModelUnreachable),
        (429, ModelUnreachable),
        (500, ModelUnreachable),
        (503, ModelUnreachable),
    ],
)
def test_status_becomes_its_reason(
    code: int, error: type[ScorerError], uri: str, server: Any, fault: Any, fetching: Any
) -> None:
    server.faults["/model.joblib"].extend([fault(code)] * 9)
    with pytest.raises(error) as caught:
        fetching(uri)
    assert f"answered {code}" in caught.value.message
    assert uri in caught.value.message
    assert caught.value.hint
    assert len(server.requests) == (3 if code in (416, 429, 500, 503) else 1)
    fetching.assert_empty()


def test_refused_connection_and_unknown_host_are_unreachable(fetching: Any, free_port: int) -> None:
    with pytest.raises(ModelUnreachable, match="refused"):
        fetching(f"http://127.0.0.1:{free_port}/m")
    with pytest.raises(ModelUnreachable, match="not known"):
        fetching("http://nowhere.invalid/m")


def test_weather_passes(uri: str, server: Any, fault: Any, fetching: Any) -> None:
    def drop(handler: Any) -> None:
        handler.connection.close()
        handler.close_connection = True

    server.faults["/model.joblib"].extend([fault(503), drop])
    fetching(uri)
    assert fetching.files == {"model.joblib": MODEL}


def test_pause_that_the_server_asks_for_is_made(
    uri: str, server: Any, fault: Any, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(
        "model_scorer.fetch.retry.run_with_retries.__kwdefaults__",
        {"sleep": pauses.append},
        raising=False,
    )
    server.faults["/model.joblib"].extend(
        [fault(429, Retry_After="7"), fault(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT")]
    )
    fetching(uri)
    assert pauses[0] == 7
    assert pauses[1] < 1


def test_pause_beyond_patience_ends_the_fetch(
    uri: str, server: Any, fault: Any, fetching: Any
) -> None:
    server.faults["/model.joblib"].append(fault(503, Retry_After="100000"))
    with pytest.raises(ModelUnreachable):
        fetching(uri)
    assert len(server.requests) == 1


@pytest.mark.parametrize("cut", [0, 1, 1000, len(MODEL) // 2, len(MODEL) - 1])
def test_cut_connection_is_resumed_where_it_broke(
    cut: int, uri: str, server: Any, fetching: Any
) -> None:
    server.faults["/model.joblib"].append(lambda handler: handler.answer(cut_at=cut))
    fetching(uri, sha256=DIGEST)
    assert fetching.files == {"model.joblib": MODEL}
    resumed = server.requests[1][1]
    assert resumed.get("Range") == (f"bytes={cut}-" if cut else None)


def test_cut_connection_without_ranges_begins_anew(uri: str, server: Any, fetching: Any) -> None:
    server.ranges = False
    server.faults["/model.joblib"].append(lambda handler: handler.answer(cut_at=1000))
    fetching(uri, sha256=DIGEST)
    assert "Range" not in server.requests[1][1]


def test_file_that_changes_between_two_attempts_is_fetched_anew(
    uri: str, server: Any, fetching: Any
) -> None:
    def change(handler: Any) -> None:
        handler.answer(cut_at=1000)
        server.files["/model.joblib"] = b"other" * 50_000

    server.faults["/model.joblib"].append(change)
    fetching(uri)
    assert fetching.files == {"model.joblib": b"other" * 50_000}


def test_connection_that_is_always_cut_is_unreachable(uri: str, server: Any, fetching: Any) -> None:
    server.faults["/model.joblib"].extend([lambda handler: handler.answer(cut_at=10)] * 9)
    with pytest.raises(ModelUnreachable, match=f"broke off at byte 30 of {len(MODEL)}"):
        fetching(uri)
    fetching.assert_empty()


def test_announced_length_that_never_comes_is_unreachable(
    uri: str, server: Any, fetching: Any
) -> None:
    server.ranges = False
    server.faults["/model.joblib"].extend([lambda handler: handler.answer(claim=5)] * 9)
    with pytest.raises(ModelUnreachable, match=f"of {len(MODEL) + 5}"):
        fetching(uri)


def test_length_that_is_too_short_is_seen_by_the_digest(
    uri: str, server: Any, fetching: Any
) -> None:
    server.faults["/model.joblib"].append(lambda handler: handler.answer(claim=-5))
    with pytest.raises(DigestMismatch):
        fetching(uri, sha256=DIGEST)
    fetching.assert_empty()


def test_trickle_is_given_up(uri: str, server: Any, fetching: Any) -> None:
    gone = threading.Event()

    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(MODEL)))
        handler.end_headers()
        try:
            while not gone.wait(0.01):
                handler.wfile.write(b"x")
        except OSError:
            pass
        handler.close_connection = True

    fetching.change_transfer(slow_window_seconds=0.1, slow_window_bytes=1000)
    server.faults["/model.joblib"].extend([trickle] * 9)
    started = time.monotonic()
    try:
        with pytest.raises(ModelUnreachable, match="too long"):
            fetching(uri)
    finally:
        gone.set()
    assert time.monotonic() - started < 5


def test_silence_is_given_up(uri: str, server: Any, fetching: Any) -> None:
    over = threading.Event()
    fetching.change(web=WebOptions(read_timeout_seconds=0.1, environ={}))
    server.faults["/model.joblib"].extend([lambda handler: over.wait(5)] * 3)
    try:
        with pytest.raises(ModelUnreachable, match="too long"):
            fetching(uri)
    finally:
        over.set()


def test_chunked_answer_is_fetched_and_its_cut_seen(server: Any, fetching: Any) -> None:
    def chunked(end: bytes) -> Any:
        def answer(handler: Any) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"5\r\nhello\r\n" + end)
            handler.close_connection = True

        return answer

    server.faults["/m"].extend([chunked(b""), chunked(b"0\r\n\r\n")])
    fetching(f"{server.url}/m")
    assert fetching.files == {"m": b"hello"}


# Parallel ranges.


def test_large_file_is_fetched_in_parallel_ranges(uri: str, server: Any, fetching: Any) -> None:
    fetching.change_transfer(parallel_threshold_bytes=100_000, piece_bytes=40_000)
    assert fetching(uri).digest == f"sha256:{DIGEST}"
    assert fetching.files == {"model.joblib": MODEL}
    assert len(server.requests) == -(-len(MODEL) // 40_000)


def test_parallel_pieces_that_break_are_repeated(
    uri: str, server: Any, fault: Any, fetching: Any
) -> None:
    fetching.change_transfer(parallel_threshold_bytes=100_000, piece_bytes=40_000)
    server.faults["/model.joblib"].extend(
        [
            lambda handler: handler.answer(cut_at=7),
            lambda handler: handler.answer(cut_at=39_999),
            fault(503),
            lambda handler: handler.answer(),
            lambda handler: handler.answer(cut_at=0),
        ]
    )
    fetching(uri, sha256=DIGEST)
    assert fetching.files == {"model.joblib": MODEL}


def test_file_that_changes_during_a_parallel_fetch_is_never_mixed(
    uri: str, server: Any, fetching: Any
) -> None:
    other = MODEL[::-1]
    fetching.change_transfer(parallel_threshold_bytes=100_000, piece_bytes=40_000, connections=2)

    def change(handler: Any) -> None:
        server.files["/model.joblib"] = other
        handler.answer()

    server.faults["/model.joblib"].extend([lambda handler: handler.answer()] * 3 + [change])
    fetching(uri)
    assert fetching.files == {"model.joblib": other}


def test_parallel_fetch_that_fails_leaves_nothing(
    uri: str, server: Any, fault: Any, fetching: Any
) -> None:
    fetching.change_transfer(parallel_threshold_bytes=100_000, piece_bytes=40_000)
    server.faults["/model.joblib"].extend([lambda handler: handler.answer()] + [fault(403)] * 20)
    with pytest.raises(ModelForbidden):
        fetching(uri)
    fetching.assert_empty()


# Space.


def test_model_larger_than_the_volume_is_refused_before_it_is_fetched(
    uri: str, server: Any, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def small(path: Any) -> Any:
        volume = real(path)
        return os.statvfs_result((1, 1, 9_000_000, 9_000_000, 8_500_000, *volume[5:]))

    monkeypatch.setattr(sink.os, "statvfs", small)
    server.files["/big"] = b"x" * 1_000_000
    with pytest.raises(DiskFull) as caught:
        fetching(f"{server.url}/big")
    assert "1 MiB" in caught.value.message
    fetching.assert_empty()


def test_full_disk_is_its_own_reason(
    uri: str, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink.os, "pwrite", full)
    with pytest.raises(DiskFull, match="No space left"):
        fetching(uri)
    fetching.assert_empty()


# Redirects and credentials.


def redirect(to: str, code: int = 302) -> Any:
    def fault(handler: Any) -> None:
        handler.send_response(code)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({"HTTP_BEARER_TOKEN": "t0ken"}, "Bearer t0ken"),
        ({"HTTP_USERNAME": "user", "HTTP_PASSWORD": "pw"}, "Basic dXNlcjpwdw=="),
    ],
)
def test_credentials_go_to_the_host_of_the_uri_and_to_no_other(
    environ: dict[str, str], header: str, uri: str, server: Any, other_server: Any, fetching: Any
) -> None:
    fetching.change(web=WebOptions(environ=environ))
    other_server.files["/there"] = MODEL
    server.faults["/model.joblib"].append(redirect(f"{other_server.url}/there"))
    fetching(uri, sha256=DIGEST)
    assert server.requests[0][1]["Authorization"] == header
    assert "Authorization" not in other_server.requests[0][1]


def test_signed_query_goes_to_the_host_of_the_uri_and_to_no_other(
    uri: str, server: Any, other_server: Any, fetching: Any
) -> None:
    fetching.change(web=WebOptions(environ={"HTTP_QUERY": "?sig=abc"}))
    other_server.files["/there"] = MODEL
    server.faults["/model.joblib"].append(redirect(f"{other_server.url}/there"))
    fetching(uri)
    assert server.requests[0][0] == "/model.joblib?sig=abc"
    assert other_server.requests[0][0] == "/there"


def test_redirect_within_the_host_keeps_the_credentials(
    uri: str, server: Any, fetching: Any
) -> None:
    fetching.change(web=WebOptions(environ={"HTTP_BEARER_TOKEN": "t0ken"}))
    server.faults["/old"].append(redirect("/model.joblib", 308))
    fetching(f"{server.url}/old")
    assert fetching.files == {"old": MODEL}
    assert server.requests[1][1]["Authorization"] == "Bearer t0ken"


def test_endless_redirects_end(server: Any, fetching: Any) -> None:
    server.faults["/m"].extend([redirect("/m")] * 50)
    with pytest.raises(ModelUnreachable, match="more than 10 times"):
        fetching(f"{server.url}/m")


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://host/m", "http://[::1", "http://host:port/"]
)
def test_redirect_to_something_else_is_refused(
    to: str, uri: str, server: Any, fetching: Any
) -> None:
    server.faults["/model.joblib"].append(redirect(to))
    with pytest.raises((ModelForbidden, ModelUnreachable)):
        fetching(uri)


def network(public: str) -> Network:
    """A network in which one loopback address is public."""
    return Network(zone_of=lambda address: Zone.PUBLIC if address == public else zone_of(address))


def test_redirect_from_a_public_to_a_private_address_is_refused(
    uri: str, server: Any, other_server: Any, fetching: Any
) -> None:
    other_server.files["/metadata"] = b"secret"
    server.faults["/model.joblib"].append(redirect(f"{other_server.url}/metadata"))
    fetching.change(web=WebOptions(environ={}, network=network("127.0.0.1")))
    with pytest.raises(ModelForbidden, match="private address"):
        fetching(uri)
    assert other_server.requests == []


def test_redirect_to_a_link_local_address_is_refused_from_anywhere(
    uri: str, server: Any, fetching: Any
) -> None:
    for target in (
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://168.63.129.16/machine",
    ):
        server.faults["/model.joblib"].append(redirect(target))
        with pytest.raises(ModelForbidden, match="link-local or reserved"):
            fetching(uri)


def test_name_that_resolves_to_a_private_address_is_refused_after_a_public_one(
    uri: str, server: Any, other_server: Any, fetching: Any
) -> None:
    names = {"models.example": ["127.0.0.1"], "inner.example": ["127.0.0.2"]}
    port = other_server.server_address[1]
    server.faults["/model.joblib"].append(redirect(f"http://inner.example:{port}/m"))
    fetching.change(
        web=WebOptions(
            environ={},
            network=Network(
                resolve=lambda host, _: names[host], zone_of=network("127.0.0.1").zone_of
            ),
        )
    )
    with pytest.raises(ModelForbidden, match=r"inner\.example, a private address"):
        fetching(f"http://models.example:{server.server_address[1]}/model.joblib")


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("93.184.216.34", Zone.PUBLIC),
        ("2606:2800:220:1::1", Zone.PUBLIC),
        ("10.0.0.1", Zone.PRIVATE),
        ("127.0.0.1", Zone.PRIVATE),
        ("::1", Zone.PRIVATE),
        ("fd00::1", Zone.PRIVATE),
        ("100.64.0.1", Zone.PRIVATE),
        ("::ffff:10.0.0.1", Zone.PRIVATE),
        ("169.254.169.254", Zone.FORBIDDEN),
        ("::ffff:169.254.169.254", Zone.FORBIDDEN),
        ("fe80::1%eth0", Zone.FORBIDDEN),
        ("168.63.129.16", Zone.FORBIDDEN),
        ("fd00:ec2::254", Zone.FORBIDDEN),
        ("0.0.0.0", Zone.FORBIDDEN),
        ("224.0.0.1", Zone.FORBIDDEN),
    ],
)
def test_zones_of_addresses(address: str, zone: Zone) -> None:
    assert zone_of(address) is zone


def test_proxy_of_the_environment_is_used_but_for_excluded_hosts(
    uri: str, server: Any, other_server: Any, fetching: Any
) -> None:
    fetching.change(web=WebOptions(environ={"http_proxy": other_server.url}))
    other_server.faults[uri].append(lambda handler: handler.send_error(502))
    with pytest.raises(ScorerError):
        fetching(uri)
    assert other_server.requests[0][0] == uri
    fetching.change(
        web=WebOptions(
            environ={"HTTP_PROXY": other_server.url, "NO_PROXY": "example.com,127.0.0.0/8"}
        )
    )
    fetching(uri, sha256=DIGEST)


# Folders.


def listing(files: dict[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(data).hexdigest()}  ./{name}\n" for name, data in files.items()]
    return "".join(sorted(lines, key=lambda line: line[66:])).encode()


FOLDER = {"model.joblib": MODEL, "score.py": b"def run(data): ...\n", "labels/a b.txt": b"x"}


@pytest.mark.parametrize("path", ["/faq/", "/faq/SHA256SUMS"])
def test_folder_is_fetched_by_its_listing(path: str, server: Any, fetching: Any) -> None:
    for name, data in FOLDER.items():
        server.files[f"/faq/{name}".replace(" ", "%20")] = data
    sums = server.files["/faq/SHA256SUMS"] = listing(FOLDER)
    digest = hashlib.sha256(sums).hexdigest()
    assert fetching(f"{server.url}{path}", sha256=digest).digest == f"sha256:{digest}"
    assert fetching.files == FOLDER


def test_folder_with_a_json_manifest(server: Any, fetching: Any) -> None:
    server.files["/faq/score.py"] = FOLDER["score.py"]
    server.files["/faq/manifest.json"] = json.dumps(
        {"files": [{"path": "score.py", "bytes": 19}]}
    ).encode()
    fetching(f"{server.url}/faq/")
    assert fetching.files == {"score.py": FOLDER["score.py"]}


def test_file_that_differs_from_the_listing_is_refused_by_name(server: Any, fetching: Any) -> None:
    server.files["/faq/a"] = b"new"
    server.files["/faq/SHA256SUMS"] = listing({"a": b"old"})
    with pytest.raises(DigestMismatch, match="'a'"):
        fetching(f"{server.url}/faq/")
    fetching.assert_empty()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("SHA256SUMS", b"", LoadFailed),
        ("SHA256SUMS", b"nonsense\n", LoadFailed),
        ("SHA256SUMS", b"0" * 64 + b"  ../../etc/passwd\n", LoadFailed),
        ("SHA256SUMS", b"0" * 64 + b"  /etc/passwd\n", LoadFailed),
        ("SHA256SUMS", (b"0" * 64 + b"  a\n") * 2, LoadFailed),
        ("SHA256SUMS", b"0" * 64 + b"  missing\n", ModelNotFound),
        ("SHA256SUMS", b"\xff\xfe", LoadFailed),
        ("manifest.json", b"[]", LoadFailed),
        ("manifest.json", b'{"files": [{"path": "a", "sha256": "x"}]}', LoadFailed),
        ("manifest.json", b'{"files": [{"path": "a", "bytes": -1}]}', LoadFailed),
        ("manifest.json", b'{"files": [{}]}', LoadFailed),
        ("manifest.json", b"[" * 100_000, LoadFailed),
    ],
)
def test_broken_listing_is_refused(
    name: str, content: bytes, error: type[ScorerError], server: Any, fetching: Any
) -> None:
    server.files[f"/faq/{name}"] = content
    with pytest.raises(error):
        fetching(f"{server.url}/faq/")
    fetching.assert_empty()


def test_folder_without_a_listing_says_how_to_make_one(server: Any, fetching: Any) -> None:
    with pytest.raises(ModelNotFound, match="no listing") as caught:
        fetching(f"{server.url}/faq/")
    assert "sha256sum" in caught.value.hint


def test_invalid_uri_touches_nothing(fetching: Any) -> None:
    with pytest.raises(InvalidSpec):
        fetching("nowhere")
    assert not fetching.model_dir.exists()


def test_patience_counts_failures_without_progress_only(
    uri: str, server: Any, fetching: Any
) -> None:
    big = os.urandom(1 << 20) * 8
    server.files["/big"] = big
    # Each attempt brings more than a MiB and is then cut: more attempts than the policy has tries.
    server.faults["/big"].extend([lambda handler: handler.answer(cut_at=1_100_000)] * 6)
    fetching.change(retry=RetryPolicy(attempts=2, first_delay_seconds=0.001))
    fetching(f"{server.url}/big", sha256=hashlib.sha256(big).hexdigest())
