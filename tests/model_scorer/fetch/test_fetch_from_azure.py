"""Azure Blob Storage, against Azurite; runs when TEST_AZURITE holds the path of its `azurite-blob`."""

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ResourceTypes,
    generate_account_sas,
)

from model_scorer.errors import (
    DigestMismatch,
    InvalidSpec,
    ModelForbidden,
    ModelNotFound,
    ModelUnreachable,
)

ACCOUNT = "devstoreaccount1"
# The key of Azurite's only account, the same in every installation (its README).
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FOLDER = {
    "model.joblib": os.urandom(100_000),
    "score.py": b"code",
    "labels/a b.txt": b"x",
    "empty": b"",
}
BIG = os.urandom(20 << 20)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    command = [os.environ["TEST_AZURITE"], "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = ""
        for line in process.stdout:
            if match := re.search(r"listens on https?://127\.0\.0\.1:(\d+)", line):
                port = match[1]
                break
        assert port, "azurite-blob ended before it listened"
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        process.terminate()
        process.stdout.close()


@pytest.fixture(scope="module")
def filled(endpoint: str) -> str:
    with BlobServiceClient(
        endpoint, credential={"account_name": ACCOUNT, "account_key": KEY}
    ) as client:
        with client.create_container("models") as container:
            for name, data in FOLDER.items():
                container.upload_blob(f"faq/3/{name}", data)
            container.upload_blob("faq/3", b"", metadata={"hdi_isfolder": "true"})
            container.upload_blob("big.bin", BIG)
            container.upload_blob("faq.tgz", b"no archive")
        with client.create_container("public", public_access="container") as container:
            container.upload_blob("m.bin", b"public")
    return endpoint


def connection_string(endpoint: str, credential: str) -> str:
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};BlobEndpoint={endpoint};{credential}"
    )


@pytest.fixture
def by_key(filled: str, fetching: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return with_environ(fetching, monkeypatch, connection_string(filled, f"AccountKey={KEY}"))


def with_environ(fetching: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> Any:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", value)
    fetching.change(environ={"AZURE_STORAGE_CONNECTION_STRING": value})
    return fetching


@pytest.fixture(autouse=True)
async def _no_open_loop() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "uri", ["az://models/faq/3/", "abfss://models@devstoreaccount1.dfs.core.windows.net/faq/3/"]
)
def test_folder_by_account_key(uri: str, by_key: Any) -> None:
    fetched = by_key(uri)
    assert by_key.files == FOLDER
    assert fetched.size_bytes == sum(map(len, FOLDER.values()))


def test_blob_in_parallel_pieces(by_key: Any) -> None:
    digest = hashlib.sha256(BIG).hexdigest()
    assert by_key("az://models/big.bin", sha256=digest).digest == f"sha256:{digest}"
    assert by_key.files == {"big.bin": BIG}


def test_other_digest_is_refused(by_key: Any) -> None:
    with pytest.raises(DigestMismatch):
        by_key("az://models/big.bin", sha256="0" * 64)
    by_key.assert_empty()


@pytest.mark.parametrize(
    "uri", ["az://models/nothing", "az://models/nothing/", "az://nowhere/faq", "az://nowhere/"]
)
def test_missing_blob_and_container_are_not_found(uri: str, by_key: Any) -> None:
    with pytest.raises(ModelNotFound, match=uri.rstrip("/")):
        by_key(uri)
    by_key.assert_empty()


def test_sas_is_enough_and_never_told(
    filled: str, fetching: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sas = generate_account_sas(
        ACCOUNT, KEY, ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, list=True), datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip
    caplog.set_level("INFO")
    fetch = with_environ(
        fetching, monkeypatch, connection_string(filled, f"SharedAccessSignature={sas}")
    )
    fetch("az://models/faq/3/")
    assert fetch.files == FOLDER
    with pytest.raises(ModelNotFound) as caught:
        fetch("az://models/nothing")
    told = caplog.text + caught.value.message + caught.value.hint
    assert "sig=" not in told
    assert "fetched" in told


def test_wrong_key_is_forbidden_and_never_told(
    filled: str, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = KEY.replace("Eby8", "AAAA")
    fetch = with_environ(fetching, monkeypatch, connection_string(filled, f"AccountKey={wrong}"))
    with pytest.raises(ModelForbidden, match="status 403") as caught:
        fetch("az://models/big.bin")
    assert wrong not in caught.value.message
    assert "Storage Blob Data Reader" in caught.value.hint


def test_malformed_key_is_forbidden(
    filled: str, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = with_environ(fetching, monkeypatch, "AccountKey")
    with pytest.raises(ModelForbidden, match="malformed"):
        fetch("az://models/big.bin")


def test_connection_string_of_another_account_is_refused(by_key: Any) -> None:
    with pytest.raises(InvalidSpec, match="'other'"):
        by_key("https://other.blob.core.windows.net/models/big.bin")


def test_store_that_is_down_is_unreachable(
    free_port: int, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{free_port}/{ACCOUNT}"
    fetch = with_environ(fetching, monkeypatch, connection_string(endpoint, f"AccountKey={KEY}"))
    with pytest.raises(ModelUnreachable):
        fetch("az://models/big.bin")


def test_uri_without_an_account_needs_one(fetching: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="names no storage account"):
        fetching("az://models/big.bin")
