import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_scorer.errors import (
    DigestMismatch,
    InvalidSpec,
    LoadFailed,
    ModelForbidden,
    ModelNotFound,
)
from model_scorer.fetch.digest import build_listing, compute_folder_digest
from model_scorer.fetch.progress import Progress
from model_scorer.fetch.sink import FileSink
from model_scorer.fetch.staging import read_record

FILES = {"model.joblib": b"m" * 3000, "a/b.txt": b"b", "a-b.txt": b"c", "Z": b"z"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "published"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def shell_digest(folder: Path) -> str:
    command = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    return subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=True
    ).stdout[:64]


def test_file_is_copied(folder: Path, fetching: Any) -> None:
    fetched = fetching(f"file://{folder}/model.joblib")
    assert fetching.files == {"model.joblib": FILES["model.joblib"]}
    assert fetched.digest == "sha256:" + hashlib.sha256(FILES["model.joblib"]).hexdigest()


def test_folder_is_copied_and_its_digest_is_the_shells(folder: Path, fetching: Any) -> None:
    fetched = fetching(f"file://{folder}", sha256=shell_digest(folder))
    assert fetching.files == FILES
    assert fetched.digest == f"sha256:{shell_digest(folder)}"
    assert fetched.size_bytes == sum(map(len, FILES.values()))


def test_listing_escapes_names_as_sha256sum_does(tmp_path: Path) -> None:
    names = ["back\\slash", "new\nline", "plain", "ü"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    printed = subprocess.run(
        "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum",
        shell=True, cwd=tmp_path, capture_output=True, check=True,
    ).stdout  # fmt: skip
    digests = dict.fromkeys(names, hashlib.sha256(b"x").hexdigest())
    assert build_listing(digests) == printed
    assert compute_folder_digest(digests) == hashlib.sha256(printed).hexdigest()


def test_other_digest_is_refused_and_leaves_nothing(folder: Path, fetching: Any) -> None:
    with pytest.raises(DigestMismatch, match="folder"):
        fetching(f"file://{folder}", sha256="f" * 64)
    fetching.assert_empty()


def test_second_fetch_replaces_the_first(folder: Path, fetching: Any) -> None:
    fetching(f"file://{folder}")
    fetching(f"file://{folder}/Z")
    assert fetching.files == {"Z": b"z"}
    record = read_record(fetching.model_dir)
    assert record is not None
    assert record["files"] == 1


def test_leftovers_of_a_killed_fetch_are_cleared(folder: Path, fetching: Any) -> None:
    (fetching.model_dir / ".incoming" / "raw").mkdir(parents=True)
    (fetching.model_dir / "half").write_text("x")
    fetching(f"file://{folder}/Z")
    assert fetching.files == {"Z": b"z"}


def test_folder_of_somebody_else_is_left_alone(folder: Path, fetching: Any) -> None:
    fetching.model_dir.mkdir()
    (fetching.model_dir / "thesis.tex").write_text("x")
    with pytest.raises(InvalidSpec, match=r"thesis\.tex"):
        fetching(f"file://{folder}/Z")
    assert (fetching.model_dir / "thesis.tex").exists()


def test_source_and_target_must_not_overlap(folder: Path, fetching: Any) -> None:
    for uri in (
        f"file://{fetching.model_dir}",
        f"file://{fetching.model_dir.parent}",
        f"file://{fetching.model_dir}/m",
    ):
        with pytest.raises(InvalidSpec, match="inside one another"):
            fetching(uri)


@pytest.mark.parametrize("path", ["nothing", "model.joblib/below"])
def test_missing_file_is_not_found(path: str, folder: Path, fetching: Any) -> None:
    with pytest.raises(ModelNotFound, match=path):
        fetching(f"file://{folder}/{path}")


def test_empty_folder_is_not_found(tmp_path: Path, fetching: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="empty folder"):
        fetching(f"file://{tmp_path}/empty")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_unreadable_file_is_forbidden(folder: Path, fetching: Any) -> None:
    (folder / "Z").chmod(0)
    with pytest.raises(ModelForbidden):
        fetching(f"file://{folder}/Z")


def test_links_of_a_mounted_config_map_are_followed(tmp_path: Path, fetching: Any) -> None:
    root = tmp_path / "mounted"
    (root / "..2026").mkdir(parents=True)
    (root / "..2026" / "score.py").write_bytes(b"code")
    (root / "..data").symlink_to("..2026")
    (root / "score.py").symlink_to("..data/score.py")
    fetching(f"file://{root}")
    assert fetching.files == {"score.py": b"code"}
    assert not (fetching.model_dir / "score.py").is_symlink()


def test_link_out_of_the_folder_is_refused(folder: Path, fetching: Any) -> None:
    (folder / "token").symlink_to("/etc/hostname")
    with pytest.raises(ModelForbidden, match="leads out of it: 'token'"):
        fetching(f"file://{folder}")
    fetching.assert_empty()


def test_link_to_a_folder_is_refused(folder: Path, fetching: Any) -> None:
    (folder / "all").symlink_to("/etc")
    with pytest.raises(ModelForbidden, match="link to a folder"):
        fetching(f"file://{folder}")


def test_socket_and_device_are_refused(tmp_path: Path, fetching: Any) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "s"))
        with pytest.raises(LoadFailed, match="neither a file nor a folder"):
            fetching(f"file://{root}")
    with pytest.raises(LoadFailed, match="neither a file nor a folder"):
        fetching("file:///dev/zero")


def test_folder_with_too_many_files_is_refused(folder: Path, fetching: Any) -> None:
    fetching.change_transfer(max_files=2)
    with pytest.raises(LoadFailed, match="more than 2 files"):
        fetching(f"file://{folder}")


# Volumes that the operator mounts.


def test_claim_is_read_from_its_mount(folder: Path, fetching: Any) -> None:
    fetching.change(source_dir=folder)
    fetching("pvc://models/a/b.txt")
    assert fetching.files == {"b.txt": b"b"}
    fetching("pvc://models")
    assert fetching.files == FILES


def test_image_is_read_from_its_mount(folder: Path, fetching: Any) -> None:
    fetching.change(source_dir=folder)
    fetching("oci://registry/models/faq:3")
    assert fetching.files == FILES


@pytest.mark.parametrize("uri", ["pvc://models/faq", "oci://registry/faq:3"])
def test_volume_that_is_not_mounted_says_so(uri: str, fetching: Any) -> None:
    with pytest.raises(InvalidSpec, match="as a volume, and none is mounted"):
        fetching(uri)


# The cache.


def test_second_pod_reads_the_cache_instead_of_the_server(
    server: Any, tmp_path: Path, fetching: Any
) -> None:
    server.files["/m"] = b"model"
    digest = hashlib.sha256(b"model").hexdigest()
    fetching.change(cache_dir=tmp_path / "cache")
    first = fetching(f"{server.url}/m", sha256=digest)
    second = fetching(f"{server.url}/m", sha256=digest)
    assert len(server.requests) == 1
    assert second.message.endswith("from the cache.")
    assert (second.digest, second.size_bytes) == (first.digest, first.size_bytes)
    assert fetching.files == {"m": b"model"}


def test_folder_is_cached_too(folder: Path, tmp_path: Path, fetching: Any) -> None:
    fetching.change(cache_dir=tmp_path / "cache")
    digest = fetching(f"file://{folder}").digest.removeprefix("sha256:")
    (folder / "Z").unlink()
    fetching(f"file://{folder}", sha256=digest)
    assert fetching.files == FILES


def test_tampered_cache_is_not_believed(server: Any, tmp_path: Path, fetching: Any) -> None:
    server.files["/m"] = b"model"
    digest = hashlib.sha256(b"model").hexdigest()
    fetching.change(cache_dir=tmp_path / "cache")
    fetching(f"{server.url}/m", sha256=digest)
    (tmp_path / "cache" / f"sha256-{digest}" / "files" / "m").write_bytes(b"evil!")
    fetching(f"{server.url}/m", sha256=digest)
    assert fetching.files == {"m": b"model"}
    assert len(server.requests) == 2


def test_cache_that_cannot_be_written_is_done_without(
    server: Any, tmp_path: Path, fetching: Any
) -> None:
    server.files["/m"] = b"model"
    (tmp_path / "cache").write_text("a file")
    fetching.change(cache_dir=tmp_path / "cache")
    fetching(f"{server.url}/m")
    assert fetching.files == {"m": b"model"}


# The sink.


def test_sink_hashes_pieces_in_any_order(tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    sink = FileSink(tmp_path / "f", Progress("x"))
    size = 1 << 20
    for start in [*range(size, len(content), 2 * size), *range(0, len(content), 2 * size)]:
        sink.write(content[start : start + size], start)
    assert sink.finish() == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "f").read_bytes() == content


def test_sink_forgets_what_it_wrote_when_it_restarts(tmp_path: Path) -> None:
    progress = Progress("x")
    sink = FileSink(tmp_path / "f", progress)
    sink.write(os.urandom(9 << 20), 0)
    sink.write(b"beyond a gap", 10 << 20)
    sink.restart()
    assert (sink.size, progress.bytes_done) == (0, 0)
    sink.write(b"new", 0)
    assert sink.finish() == hashlib.sha256(b"new").hexdigest()
    assert (tmp_path / "f").read_bytes() == b"new"


# The program.


def run(
    tmp_path: Path, uri: str, **environ: str
) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    log = tmp_path / "termination-log"
    process = subprocess.run(
        [sys.executable, "-m", "model_scorer", "fetch"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("SCORER_")},
            "SCORER_MODEL_URI": uri,
            "SCORER_MODEL_DIR": str(tmp_path / "model"),
            "SCORER_TERMINATION_LOG": str(log),
            **environ,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (
        process.returncode,
        json.loads(log.read_text()),
        [json.loads(line) for line in process.stdout.splitlines()],
    )


def test_program_ends_with_what_it_fetched(folder: Path, tmp_path: Path) -> None:
    code, last_words, lines = run(tmp_path, f"file://{folder}")
    assert code == 0
    assert last_words["reason"] == "Fetched"
    assert last_words["digest"] == f"sha256:{shell_digest(folder)}"
    assert last_words["bytes"] == sum(map(len, FILES.values()))
    assert any(line.get("percent") == 100 for line in lines)


def test_program_ends_with_its_reason(tmp_path: Path) -> None:
    code, last_words, lines = run(tmp_path, f"file://{tmp_path}/nothing")
    assert code != 0
    assert last_words["reason"] == "ModelNotFound"
    assert last_words["hint"]
    assert lines[-1]["reason"] == "ModelNotFound"
