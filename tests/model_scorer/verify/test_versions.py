import json
import pickle
import zipfile
from pathlib import Path

import joblib
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from model_scorer.errors import LoadFailed, VersionMismatch
from model_scorer.verify import check_versions, versions
from model_scorer.verify.versions import parse_version, read_sklearn_versions


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.version", {"scikit-learn": "1.9.1", "keras": "3.8.0"}.__getitem__
    )


def write_sklearn(path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an estimator's __getstate__ writes is the module's own version.
    monkeypatch.setattr("sklearn.base.__version__", version)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    if path.suffix == ".skops":
        skops.io.dump(model, path)
    elif path.suffix == ".joblib":
        joblib.dump(model, path, compress=3)
    else:
        path.write_bytes(pickle.dumps(model))


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.skops"])
def test_version_is_read_without_loading(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write_sklearn(path, "1.4.2", monkeypatch)
    assert read_sklearn_versions(path) == {"1.4.2"}


def test_version_of_a_pickle_with_forbidden_imports_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04cos\nsystem\n0}\x8c\x10_sklearn_version\x8c\x051.2.0s.")
    assert read_sklearn_versions(path) == {"1.2.0"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("version", ["1.9.1", "1.9.0", "1.9.2rc1", "1.8.3", "1.7.0", "no version"])
def test_file_of_the_same_or_a_slightly_older_version_is_loaded(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pkl"
    write_sklearn(path, version, monkeypatch)
    check_versions(path, "sklearn")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("version", ["1.10.0", "2.0.0", "1.6.1", "0.24.2", "1.10.dev0"])
@pytest.mark.parametrize("name", ["model.joblib", "model.skops"])
def test_other_version_is_refused_with_both_numbers_and_the_fix(
    version: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write_sklearn(path, version, monkeypatch)
    with pytest.raises(VersionMismatch) as caught:
        check_versions(path, "sklearn")
    assert f"saved with scikit-learn {version}" in caught.value.message
    assert "has scikit-learn 1.9.1" in caught.value.message
    major, minor = version.split(".")[:2]
    assert f"scikit-learn {major}.{minor}" in caught.value.hint


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("version", "refused"), [("3.8.1", False), ("3.2.0", False), ("3.9.0", True), ("2.15.0", True)]
)
def test_keras_file_of_a_later_version_is_refused(
    version: str, refused: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("metadata.json", json.dumps({"keras_version": version}))
    if refused:
        with pytest.raises(VersionMismatch, match=f"saved with keras {version}"):
            check_versions(path, "keras")
    else:
        check_versions(path, "keras")


def test_file_without_a_version_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    check_versions(path, "sklearn")


def test_file_that_is_no_skops_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(b"nothing")
    with pytest.raises(LoadFailed, match=r"no \.skops file"):
        check_versions(path, "sklearn")


def test_library_that_is_not_installed_is_left_to_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise versions.importlib.metadata.PackageNotFoundError(name)

    path = tmp_path / "model.pkl"
    write_sklearn(path, "0.1.0", monkeypatch)
    monkeypatch.setattr("importlib.metadata.version", missing)
    check_versions(path, "sklearn")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("1.9.1", (1, 9)), ("1.10.dev0", (1, 10)), ("2.0", (2, 0)), ("x", None), ("", None)],
)
def test_parse_version(text: str, parsed: tuple[int, int] | None) -> None:
    assert parse_version(text) == parsed
