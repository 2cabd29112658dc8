"""Azure Blob Storage, by Azurite, from `kubectl apply` to a scored request; `make test-azure` runs it."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

AZURITE = os.environ.get("TEST_AZURITE", "")
if not AZURITE:
    pytest.skip("needs Azurite: make test-azure", allow_module_level=True)

from azure.storage.blob import (  # noqa: E402 - only where the tests run
    AccountSasPermissions,
    BlobServiceClient,
    ResourceTypes,
    generate_account_sas,
)

ACCOUNT = "devstoreaccount1"
# The key of Azurite's only account, the same in every installation (its README).
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FILES = {
    "score.py": b"import pathlib\nlabels = pathlib.Path(__file__).parent / 'labels' / 'a b.txt'\n"
    b"def init(): pass\ndef run(data): return labels.read_text()\n",
    "labels/a b.txt": b"from Azure",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    command = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = ""
        for line in process.stdout:
            if match := re.search(r"listens on https?://127\.0\.0\.1:(\d+)", line):
                port = match[1]
                break
        assert port, "azurite-blob ended before it listened"
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        with BlobServiceClient(url, credential=credential) as client:
            container = client.create_container("models")
            for name, data in FILES.items():
                container.upload_blob(f"greeting/1/{name}", data)
        yield url
        process.terminate()
        process.stdout.close()


def make_sas() -> str:
    return generate_account_sas(
        ACCOUNT,
        KEY,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, list=True),
        datetime.now(UTC) + timedelta(hours=1),
    )


def make_secret(client: Any, name: str, endpoint: str, credential: str) -> None:
    """A Secret with a connection string, which alone can name an endpoint that is not in Azure."""
    value = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};BlobEndpoint={endpoint};{credential}"
    )
    client.kubectl(
        *("create", "secret", "generic", name),
        f"--from-literal=AZURE_STORAGE_CONNECTION_STRING={value}",
    )


@pytest.mark.parametrize("by", ["account-key", "sas"])
@pytest.mark.parametrize(
    "uri",
    ["az://models/greeting/1/", f"abfss://models@{ACCOUNT}.dfs.core.windows.net/greeting/1/"],
    ids=["az", "abfss"],
)
def test_a_model_in_blob_storage_is_served(client: Any, endpoint: str, by: str, uri: str) -> None:
    sas = make_sas()
    credential = f"AccountKey={KEY}" if by == "account-key" else f"SharedAccessSignature={sas}"
    make_secret(client, "store", endpoint, credential)

    client.apply_model("m", modelURI=uri, framework="python", storage={"secretName": "store"})
    client.wait_ready("m")

    status, headers, body = client.request("m", body=b"{}")
    assert (status, json.loads(body)) == (200, "from Azure")
    assert headers["x-model-digest"].startswith("sha256:")
    told = client.kubectl("get", "scoringmodel,deployment,pod,event", "-o", "yaml")
    told += client.kubectl("logs", "deployment/m", "-c", "fetch")
    assert KEY not in told
    assert "sig=" not in told


def test_a_wrong_key_and_a_missing_blob_are_told_apart(client: Any, endpoint: str) -> None:
    make_secret(client, "wrong", endpoint, f"AccountKey={KEY.replace('Eby8', 'AAAA')}")
    make_secret(client, "right", endpoint, f"AccountKey={KEY}")
    client.apply_model(
        "wrong",
        modelURI="az://models/greeting/1/",
        framework="python",
        storage={"secretName": "wrong"},
    )
    client.apply_model(
        "missing",
        modelURI="az://models/greeting/2/",
        framework="python",
        storage={"secretName": "right"},
    )
    client.wait_for_reason("wrong", "ModelForbidden")
    client.wait_for_reason("missing", "ModelNotFound")
