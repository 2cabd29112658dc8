"""Packages that a model asks for, from an index of the test's own."""

import base64
import hashlib
import http.server
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model_scorer.errors import (
    DigestMismatch,
    InvalidSpec,
    LoadFailed,
    MissingDependency,
    ModelUnreachable,
)
from model_scorer.fetch import FetchOptions
from model_scorer.fetch.digest import compute_file_digest, compute_folder_digest
from model_scorer.fetch.requirement_lines import parse_lines, read_requirements
from model_scorer.fetch.requirements import scorer_constraints


def build_wheel(folder: Path, name: str, version: str, source: str, *requires: str) -> Path:
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


@dataclass
class Index:
    """A folder of wheels, and a server with the simple index of it."""

    wheels: Path
    url: str
    requests: list[tuple[str, str]]

    def digest(self, name: str) -> str:
        return hashlib.sha256(next(self.wheels.glob(f"{name}-*.whl")).read_bytes()).hexdigest()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization", "")))  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    root = tmp_path / "index"
    wheels = root / "files"
    wheels.mkdir(parents=True)
    build_wheel(wheels, "tinymodel", "1.5", "ANSWER = 42\n", "tinydependency>=2")
    build_wheel(wheels, "tinydependency", "2.1", "VALUE = 1\n")
    (wheels / "tinysource-1.0.tar.gz").write_bytes(b"never built")
    build_wheel(wheels, "greedy", "1.0", "", "numpy<1.20")
    for name in ("tinymodel", "tinydependency", "tinysource", "greedy"):
        (root / "simple" / name).mkdir(parents=True)
        links = [
            f'<a href="/files/{path.name}">{path.name}</a>' for path in wheels.glob(f"{name}-*")
        ]
        (root / "simple" / name / "index.html").write_text("<!DOCTYPE html>" + "".join(links))
    handler = partial(_Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/simple/"
    yield Index(wheels, url, server.requests)  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "score.py").write_text("import tinymodel\n")
    return folder


@pytest.fixture
def installing(fetching: Any, index: Index) -> Any:
    environ = {
        "SCORER_PIP_INDEX_URL": index.url,
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "0",
    }
    fetching.change(install_requirements=True, environ=environ)
    return fetching


def import_installed(model_dir: Path, code: str) -> str:
    """Run code as `serve` would, with the model's packages on the path."""
    prelude = (
        "from pathlib import Path; from model_scorer.model_packages import add_model_packages; "
    )
    prelude += f"assert add_model_packages(Path({str(model_dir)!r})); "
    return subprocess.run(
        [sys.executable, "-c", prelude + code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_package_and_what_it_needs_are_installed_beside_the_model(
    installing: Any, model: Path
) -> None:
    (model / "requirements.txt").write_text("tinymodel==1.5  # the answer\nnumpy\n")

    listing = {path.name: compute_file_digest(path) for path in model.iterdir()}
    fetched = installing(model.as_uri())

    assert fetched.digest == f"sha256:{compute_folder_digest(listing)}"  # of the model alone
    assert "installed 2 packages" in fetched.message
    assert set(installing.files) > {".site-packages/tinymodel.py", "score.py"}
    assert not any("numpy/" in name for name in installing.files)
    code = "import tinymodel, tinydependency; print(tinymodel.ANSWER)"
    assert import_installed(installing.model_dir, code) == "42"


def test_a_served_model_has_its_packages_and_tells_its_digest(
    installing: Any, model: Path, start_scorer: Any
) -> None:
    (model / "requirements.txt").write_text("tinymodel\n")
    (model / "score.py").write_text("import tinymodel\ndef run(data): return tinymodel.ANSWER\n")
    fetched = installing(model.as_uri())

    reply = start_scorer(installing.model_dir, "python", workers="1").post("/score", {})

    assert (reply.status, reply.json) == (200, 42)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    assert headers["x-model-digest"] == fetched.digest


def test_what_is_missing_and_may_not_be_installed_is_named_with_the_way_out(
    fetching: Any, model: Path, index: Index
) -> None:
    fetching.change(environ={"SCORER_PIP_INDEX_URL": index.url})
    (model / "requirements.txt").write_text("numpy\ntinymodel==1.5\n")

    with pytest.raises(MissingDependency, match=r"'tinymodel==1\.5'") as caught:
        fetching(model.as_uri())

    assert "INSTALL_REQUIREMENTS" in caught.value.hint
    assert "numpy" not in caught.value.message
    fetching.assert_empty()
    assert index.requests == []


def test_what_the_image_has_needs_no_index(fetching: Any, model: Path, index: Index) -> None:
    (model / "requirements.txt").write_text("numpy>=1\nPyYAML\n")
    fetching(model.as_uri())
    fetching.change(install_requirements=True, environ={"SCORER_PIP_INDEX_URL": index.url})
    fetching(model.as_uri())
    assert index.requests == []
    assert ".site-packages" not in {path.name for path in fetching.model_dir.iterdir()}


def test_another_version_than_asked_for_is_only_a_warning_where_nothing_is_installed(
    fetching: Any, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model / "requirements.txt").write_text("numpy==1.0\n")
    fetching(model.as_uri())
    assert "another version" in caplog.text


def test_hashes_are_checked_and_must_be_complete(
    installing: Any, model: Path, index: Index
) -> None:
    lines = [
        f"tinymodel==1.5 \\\n    --hash=sha256:{index.digest('tinymodel')}",
        f"tinydependency==2.1 --hash=sha256:{index.digest('tinydependency')}",
    ]
    (model / "requirements.txt").write_text("\n".join(lines))
    installing(model.as_uri())
    assert ".site-packages/tinymodel.py" in installing.files

    (model / "requirements.txt").write_text(lines[0])
    with pytest.raises(MissingDependency, match="hash"):
        installing(model.as_uri())

    wrong = lines[0].replace(index.digest("tinymodel"), "0" * 64)
    (model / "requirements.txt").write_text(f"{wrong}\n{lines[1]}")
    with pytest.raises(DigestMismatch):
        installing(model.as_uri())
    installing.assert_empty()


def test_hashed_wheels_come_from_the_cache_and_are_checked_there(
    installing: Any, model: Path, index: Index, tmp_path: Path
) -> None:
    installing.change(cache_dir=tmp_path / "cache")
    (model / "requirements.txt").write_text(
        f"tinymodel==1.5 --hash=sha256:{index.digest('tinymodel')}\n"
        f"tinydependency==2.1 --hash=sha256:{index.digest('tinydependency')}\n"
    )
    installing(model.as_uri())
    index.requests.clear()

    installing(model.as_uri())
    assert index.requests == []
    assert ".site-packages/tinymodel.py" in installing.files

    cached = next((tmp_path / "cache").glob("wheels-*/tinymodel-*"))
    build_wheel(cached.parent, "tinymodel", "1.5", "ANSWER = 'evil'\n")
    installing(model.as_uri())
    assert index.requests != []
    assert installing.files[".site-packages/tinymodel.py"] == b"ANSWER = 42\n"


def test_wheels_without_hashes_are_not_cached(installing: Any, model: Path, tmp_path: Path) -> None:
    installing.change(cache_dir=tmp_path / "cache")
    (model / "requirements.txt").write_text("tinymodel\n")
    installing(model.as_uri())
    assert not list((tmp_path / "cache").glob("wheels-*"))


def test_a_package_without_a_wheel_is_never_built(installing: Any, model: Path) -> None:
    (model / "requirements.txt").write_text("tinysource\n")
    with pytest.raises(MissingDependency, match="tinysource"):
        installing(model.as_uri())
    installing.assert_empty()


def test_a_package_that_breaks_the_scorer_is_refused(installing: Any, model: Path) -> None:
    assert any(line.startswith("numpy>=") for line in scorer_constraints())
    (model / "requirements.txt").write_text("greedy\n")
    with pytest.raises(MissingDependency, match="numpy"):
        installing(model.as_uri())


def test_the_model_does_not_choose_the_index(
    installing: Any, model: Path, index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    (model / "requirements.txt").write_text(
        "--index-url http://203.0.113.1/simple\n--no-binary :all:\ntinymodel\n"
    )
    installing(model.as_uri())
    assert index.requests
    assert "operator's choice" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        *("-r other.txt", "-e .", "./wheels/x.whl", "git+https://host/repo", "https://host/x.whl"),
        *("name @ https://host/x.whl", "name @ file:///etc/passwd", "$(touch /tmp/x)", "-c other"),
    ],
)
def test_what_is_no_package_of_an_index_is_refused(
    installing: Any, fetching: Any, model: Path, index: Index, line: str
) -> None:
    (model / "requirements.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(LoadFailed, match=r"requirements\.txt"):
        installing(model.as_uri())
    assert index.requests == []
    fetching.change(install_requirements=False)
    fetching(model.as_uri())  # an image may have it: loading will tell


def test_an_index_that_is_down_is_unreachable_and_its_password_is_not_told(
    installing: Any, model: Path, free_port: int
) -> None:
    environ = dict(installing.options.environ)
    environ["SCORER_PIP_INDEX_URL"] = f"http://user:hidden-word@127.0.0.1:{free_port}/simple/"
    environ["PIP_RETRIES"] = "1"
    installing.change(environ=environ)
    (model / "requirements.txt").write_text("tinymodel\n")
    with pytest.raises(ModelUnreachable) as caught:
        installing(model.as_uri())
    assert "hidden-word" not in caught.value.message + caught.value.hint
    installing.assert_empty()


def test_credentials_of_a_private_index_are_sent(
    installing: Any, model: Path, index: Index
) -> None:
    environ = dict(installing.options.environ)
    environ["SCORER_PIP_INDEX_URL"] = index.url.replace("http://", "http://user:word@")
    installing.change(environ=environ)
    (model / "requirements.txt").write_text("tinymodel\n")
    installing(model.as_uri())
    expected = "Basic " + base64.b64encode(b"user:word").decode()
    assert expected in {authorization for _, authorization in index.requests}


def test_mlflow_models_say_it_in_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    conda = "dependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow==3.1\n  - pandas==3.0\n"
    (tmp_path / "conda.yaml").write_text(conda)
    read = read_requirements(tmp_path)
    assert read is not None
    assert [item.line for item in read.wanted] == ["pandas==3.0"]
    (tmp_path / "requirements.txt").write_text("mlflow==3.1\nscikit-learn==1.9\n")
    read = read_requirements(tmp_path)
    assert read is not None
    assert [item.line for item in read.wanted] == ["scikit-learn==1.9"]


def test_markers_comments_and_extras_are_understood() -> None:
    read = parse_lines(
        "requirements.txt",
        ["a==1; python_version < '3'", "b[x]>=1; python_version >= '3'", "c == 1 --hash=sha256:ab"],
    )
    assert [item.line for item in read.wanted] == ["b[x]>=1", "c==1 --hash=sha256:ab"]
    assert read.hashed


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 10])
def test_a_broken_requirements_file_is_no_accident(
    installing: Any, model: Path, content: bytes
) -> None:
    (model / "requirements.txt").write_bytes(content)
    with pytest.raises(LoadFailed):
        installing(model.as_uri())


def test_the_switch_must_make_sense() -> None:
    assert FetchOptions.from_env({"SCORER_INSTALL_REQUIREMENTS": "true"}).install_requirements
    assert not FetchOptions.from_env({}).install_requirements
    with pytest.raises(InvalidSpec):
        FetchOptions.from_env({"SCORER_INSTALL_REQUIREMENTS": "maybe"})
