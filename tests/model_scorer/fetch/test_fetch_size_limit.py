"""`spec.storage.sizeLimit`: what would not fit ends in DiskFull, and nothing of it stays."""

import io
import tarfile
import zipfile

import pytest

from model_scorer.errors import DiskFull, InvalidSpec
from model_scorer.fetch import FetchOptions
from model_scorer.fetch.size_limit import parse_size_limit

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10Mi", 10 * MIB),
        ("1.5Gi", 3 << 29),
        ("2Ki", 2048),
        ("500M", 500_000_000),
        ("3k", 3000),
        ("1e3", 1000),
        ("1E", 10**18),
        ("4096", 4096),
        ("5000m", 5),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text, limit):
    parsed = parse_size_limit(text)
    parsed.check(limit)
    with pytest.raises(DiskFull, match=f"sizeLimit is {text}"):
        parsed.check(limit + 1 + limit // 10**6)


@pytest.mark.parametrize("text", ["ten", "10 Mi", "-1", "0", "10ki", "1.2.3", "Gi", "0.1m"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(InvalidSpec, match=r"quantity"):
        FetchOptions.from_env({"SCORER_MODEL_SIZE_LIMIT": text})


def test_without_the_variable_there_is_no_limit():
    options = FetchOptions.from_env({"SCORER_MODEL_SIZE_LIMIT": ""})
    assert not options.size_limit
    options.size_limit.check(1 << 60)


def refused(fetching, uri):
    with pytest.raises(DiskFull) as caught:
        fetching(uri)
    assert "spec.storage.sizeLimit" in str(caught.value)
    assert "spec.storage.sizeLimit" in caught.value.hint
    fetching.assert_empty()


def test_a_file_of_a_known_size_is_refused_before_it_is_downloaded(server, fetching):
    server.files["/model.bin"] = b"x" * (2 * MIB)
    fetching.change(size_limit=parse_size_limit("1Mi"))
    refused(fetching, f"{server.url}/model.bin")
    fetching.change(size_limit=parse_size_limit("2Mi"))
    assert fetching(f"{server.url}/model.bin").size_bytes == 2 * MIB


def test_a_file_of_an_unknown_size_is_broken_off_at_the_limit(server, fetching):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            for _ in range(1000):
                handler.wfile.write(b"x" * MIB)
        except OSError:
            pass

    server.faults["/model.bin"].append(endless)
    fetching.change(size_limit=parse_size_limit("1Mi"))
    refused(fetching, f"{server.url}/model.bin")


def test_the_files_of_a_folder_count_together(tmp_path, fetching):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(b"x" * (MIB // 2))
    fetching.change(size_limit=parse_size_limit("1Mi"))
    refused(fetching, f"file://{folder}/")


def pack(kind):
    buffer = io.BytesIO()
    content = b"\0" * (3 * MIB)
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.bin", content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("model.bin")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_counts_packed_and_unpacked(server, fetching, kind):
    server.files[f"/model.{kind}"] = pack(kind)
    fetching.change(size_limit=parse_size_limit("3Mi"))
    refused(fetching, f"{server.url}/model.{kind}")
    fetching.change(size_limit=parse_size_limit("4Mi"))
    assert fetching(f"{server.url}/model.{kind}").files == 1


def test_a_cached_model_that_does_not_fit_stays_in_the_cache(tmp_path, server, fetching):
    server.files["/model.bin"] = b"x" * (2 * MIB)
    fetching.change(cache_dir=tmp_path / "cache")
    digest = fetching(f"{server.url}/model.bin").digest.removeprefix("sha256:")
    kept = sorted((tmp_path / "cache").rglob("*"))
    fetching.change(size_limit=parse_size_limit("1Mi"))
    with pytest.raises(DiskFull):
        fetching(f"{server.url}/model.bin", sha256=digest)
    assert sorted((tmp_path / "cache").rglob("*")) == kept
