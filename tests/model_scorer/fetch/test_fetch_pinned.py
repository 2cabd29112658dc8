"""All pods of a revision fetch the same bytes; and a fetch tells how far it is."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from model_scorer.errors import DigestMismatch, InvalidSpec
from model_scorer.fetch import FetchOptions
from model_scorer.fetch.progress import Progress, served

OLD, NEW = b"the model as it was", b"other bytes"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "published" / "model.joblib"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def test_a_later_pod_of_a_revision_fetches_what_the_first_one_did(
    file: Path, fetching: Any
) -> None:
    fetching.change(pinned_sha256=digest(OLD))
    assert fetching(f"file://{file}").digest == f"sha256:{digest(OLD)}"


def test_other_bytes_than_those_of_the_revision_are_refused_with_the_way_out(
    file: Path, fetching: Any
) -> None:
    fetching.change(pinned_sha256=digest(OLD))
    file.write_bytes(NEW)
    with pytest.raises(DigestMismatch) as caught:
        fetching(f"file://{file}")
    assert digest(OLD) in caught.value.message
    assert digest(NEW) in caught.value.message
    assert caught.value.found == digest(NEW)
    assert "spec.updatePolicy" in caught.value.hint
    fetching.assert_empty()


def test_the_digest_of_the_spec_wins_over_the_one_of_the_revision(
    file: Path, fetching: Any
) -> None:
    fetching.change(pinned_sha256=digest(NEW))
    assert fetching(f"file://{file}", sha256=digest(OLD)).size_bytes == len(OLD)
    with pytest.raises(DigestMismatch, match=r"spec\.sha256 says"):
        fetching(f"file://{file}", sha256=digest(NEW))


def test_a_pin_that_is_no_digest_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="SCORER_PINNED_SHA256"):
        FetchOptions.from_env({"SCORER_PINNED_SHA256": "latest"})
    assert FetchOptions.from_env({"SCORER_PINNED_SHA256": ""}).pinned_sha256 == ""


def test_the_last_words_of_a_mismatch_hold_the_digest_that_is_there(
    file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "termination-log"
    process = subprocess.run(
        [sys.executable, "-m", "model_scorer", "fetch"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("SCORER_")},
            "SCORER_MODEL_URI": f"file://{file}",
            "SCORER_MODEL_DIR": str(tmp_path / "model"),
            "SCORER_TERMINATION_LOG": str(log),
            "SCORER_PINNED_SHA256": digest(NEW),
            # Nobody can listen there: a fetch does without.
            "SCORER_ADDRESS": "192.0.2.1",
            "SCORER_PROBE_PORT": "1",
        },
        capture_output=True,
        check=False,
    )
    assert process.returncode != 0
    said = json.loads(log.read_text())
    assert said["reason"] == "DigestMismatch"
    assert said["digest"] == f"sha256:{digest(OLD)}"


def ask(port: int, path: str = "/progress") -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


def test_progress_is_told_over_http_while_it_lasts() -> None:
    progress = Progress("x")
    with served(progress, "127.0.0.1", 0) as port:
        assert port
        assert ask(port) == {"bytes": 0, "totalBytes": 0}
        progress.expect(100)
        progress.add(25)
        assert ask(port) == {"bytes": 25, "totalBytes": 100}
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            ask(port, "/etc/passwd")
        caught.value.close()
        # Somebody who connects and says nothing is in nobody's way.
        silent = http.client.HTTPConnection("127.0.0.1", port)
        silent.connect()
        assert ask(port)["bytes"] == 25
        silent.close()
    with pytest.raises(urllib.error.URLError):
        ask(port)


def test_a_port_that_is_taken_is_done_without() -> None:
    with (
        served(Progress("x"), "127.0.0.1", 0) as port,
        served(Progress("y"), "127.0.0.1", port or 0) as second,
    ):
        assert second is None
