"""Azure ML: a server that answers as its REST API does, and Azurite for the blobs where TEST_AZURITE says where it is."""

import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from model_scorer.errors import InvalidSpec, ModelForbidden, ModelNotFound, ModelUnreachable
from model_scorer.fetch.azure_ml import resolve_azureml
from model_scorer.fetch.location import parse_uri

pytest.importorskip("azure.identity")

WORKSPACE = "azureml://subscriptions/s-1/resourceGroups/g 1/workspaces/ml"
ARM = "/subscriptions/s-1/resourceGroups/g 1/providers/Microsoft.MachineLearningServices/workspaces/ml"
REGISTRY = (
    "/mferp/managementfrontend/subscriptions/s-2/resourceGroups/g2/providers"
    "/Microsoft.MachineLearningServices/registries/shared"
)
TOKEN = "a-token"
SIGNATURE = "sv=2025&sig=hidden"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "AzureML"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: Any) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == "/identity":  # managed identity of App Service and Azure ML compute
            assert self.headers["X-IDENTITY-HEADER"] == "secret"
            self.server.audiences.append(query["resource"][0])
            expires = str(int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))
            self.reply(200, {"access_token": TOKEN, "expires_on": expires, "token_type": "Bearer"})
            return
        self.server.asked.append((self.command, path, query, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {})
        elif self.server.faults:
            status, headers = self.server.faults.pop(0)
            self.reply(status, {}, **headers)
        elif path in self.server.answers:
            self.reply(200, self.server.answers[path])
        else:
            self.reply(404, {"error": {"code": "NotFound"}})

    def reply(self, status: int, answer: Any, **headers: str) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class AzureML(http.server.ThreadingHTTPServer):
    """A workspace with a model on a datastore, and a registry with a model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.audiences: list[str] = []
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.answers: dict[str, Any] = {}
        self.put_workspace("acct", "https", "core.windows.net")
        self.put_registry("https://regacct.blob.core.windows.net/models-ab12/faq", SIGNATURE)

    def put_workspace(self, account: str, protocol: str, endpoint: str) -> None:
        uri = f"{WORKSPACE}/datastores/workspaceblobstore/paths/LocalUpload/1/faq/"
        model = {"name": "3", "properties": {"modelUri": uri, "modelType": "custom_model"}}
        self.answers[f"{ARM}/models/faq/versions/3"] = model
        self.answers[f"{ARM}/models/faq/versions"] = {"value": [model]}
        self.answers[f"{ARM}/datastores/workspaceblobstore"] = {
            "properties": {
                "datastoreType": "AzureBlob", "accountName": account, "containerName": "models",
                "protocol": protocol, "endpoint": endpoint,
            }
        }  # fmt: skip
        self.answers[f"{ARM}/datastores/lake"] = {
            "properties": {
                "datastoreType": "AzureDataLakeGen2", "accountName": account,
                "filesystem": "models", "protocol": protocol, "endpoint": endpoint,
            }
        }  # fmt: skip
        self.answers[f"{ARM}/datastores/share"] = {
            "properties": {"datastoreType": "AzureFile", "fileShareName": "models"}
        }

    def put_registry(self, model_uri: str, signature: str) -> None:
        self.answers["/registrymanagement/v1.0/registries/shared/discovery"] = {
            "registryName": "shared", "subscriptionId": "s-2", "resourceGroup": "g2",
            "primaryRegionResourceProviderUri": f"{self.url}/",
        }  # fmt: skip
        version = {"name": "5", "properties": {"modelUri": model_uri}}
        self.answers[f"{REGISTRY}/models/faq/versions/5"] = version
        self.answers[f"{REGISTRY}/models/faq/versions"] = {"value": [version]}
        container = model_uri.rpartition("/")[0]
        signed = {"credentialType": "SAS", "sasUri": f"{container}?{signature}"}
        unsigned = {"credentialType": "NoCredentials", "uri": container}
        self.answers[f"{REGISTRY}/datarefs/faq/versions/5"] = {
            "blobReferenceForConsumption": {
                "blobUri": container,
                "credential": signed if signature else unsigned,
            }
        }


@pytest.fixture
def service(fetching: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureML]:
    """The service, and a pod whose identity it knows."""
    server = AzureML()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    identity = {"IDENTITY_ENDPOINT": f"{server.url}/identity", "IDENTITY_HEADER": "secret"}
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    fetching.change(
        environ=identity
        | {
            "AZURE_RESOURCE_MANAGER_URL": server.url,
            "AZUREML_REGISTRY_DISCOVERY_URL": server.url,
        }
    )
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        (f"{WORKSPACE}/models/faq/versions/3", "models/LocalUpload/1/faq"),
        (f"{WORKSPACE}/models/faq/labels/latest", "models/LocalUpload/1/faq"),
        (f"{WORKSPACE}/datastores/workspaceblobstore/paths/faq/a.pkl", "models/faq/a.pkl"),
        (f"{WORKSPACE}/datastores/lake/paths/faq/", "models/faq"),
    ],
)
def test_what_a_workspace_names_is_found_in_its_storage(
    uri: str, target: str, service: AzureML, fetching: Any
) -> None:
    location, options = resolve_azureml(parse_uri(uri), fetching.options)
    assert (location.kind, location.target) == ("azure", target)
    assert location.options == {"account_name": "acct"}
    assert location.display == uri
    assert options is fetching.options
    assert {query["api-version"][0] for _, _, query, _ in service.asked} == {"2024-04-01"}
    assert set(service.audiences) == {"https://management.azure.com"}


def test_the_latest_version_is_the_one_that_was_made_last(service: AzureML, fetching: Any) -> None:
    resolve_azureml(parse_uri(f"{WORKSPACE}/models/faq/labels/latest"), fetching.options)
    query = service.asked[0][2]
    assert (query["$orderBy"], query["$top"]) == (["createdtime desc"], ["1"])


@pytest.mark.parametrize(
    "uri", ["azureml:faq:3", "azureml:faq@latest", "azureml://models/faq/versions/3"]
)
def test_a_short_name_is_of_the_workspace_that_the_environment_names(
    uri: str, service: AzureML, fetching: Any
) -> None:
    with pytest.raises(InvalidSpec, match="names no workspace") as caught:
        resolve_azureml(parse_uri(uri), fetching.options)
    assert "AZUREML_ARM_WORKSPACE_NAME" in caught.value.hint

    named = {
        "AZUREML_ARM_SUBSCRIPTION": "s-1",
        "AZUREML_ARM_RESOURCEGROUP": "g 1",
        "AZUREML_ARM_WORKSPACE_NAME": "ml",
    }
    fetching.change(environ={**fetching.options.environ, **named})
    location, _ = resolve_azureml(parse_uri(uri), fetching.options)
    assert location.target == "models/LocalUpload/1/faq"


@pytest.mark.parametrize("version", ["versions/5", "labels/latest"])
def test_a_registrys_model_comes_with_a_signature_that_is_told_nobody(
    version: str, service: AzureML, fetching: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    uri = f"azureml://registries/shared/models/faq/{version}"
    location, options = resolve_azureml(parse_uri(uri), fetching.options)
    assert (location.kind, location.target, location.display) == ("azure", "models-ab12/faq", uri)
    assert options.environ["AZURE_STORAGE_CONNECTION_STRING"] == (
        f"BlobEndpoint=https://regacct.blob.core.windows.net;SharedAccessSignature={SIGNATURE}"
    )
    method, path, _, body = service.asked[-1]
    assert (method, path) == ("POST", f"{REGISTRY}/datarefs/faq/versions/5")
    assert body == {
        "assetId": "azureml://registries/shared/models/faq/versions/5",
        "blobUri": "https://regacct.blob.core.windows.net/models-ab12/faq",
    }
    assert "hidden" not in caplog.text + repr(location)
    assert TOKEN not in caplog.text


def test_a_registry_for_everybody_is_read_without_the_pods_credentials(
    service: AzureML, fetching: Any
) -> None:
    service.put_registry("https://regacct.blob.core.windows.net/models-ab12/faq", "")
    location, options = resolve_azureml(
        parse_uri("azureml://registries/shared/models/faq/versions/5"), fetching.options
    )
    assert location.options == {"account_name": "regacct"}
    assert not {"IDENTITY_ENDPOINT", "AZURE_STORAGE_CONNECTION_STRING"} & set(options.environ)


@pytest.mark.parametrize(
    "uri",
    [
        f"{WORKSPACE}/models/faq/versions/4",
        f"{WORKSPACE}/datastores/other/paths/faq/",
        "azureml://registries/shared/models/faq/versions/9",
        "azureml://registries/other/models/faq/versions/1",
    ],
)
def test_what_azure_ml_does_not_have_is_not_found(
    uri: str, service: AzureML, fetching: Any
) -> None:
    with pytest.raises(ModelNotFound, match=re.escape(uri)):
        fetching(uri)
    fetching.assert_empty()


def test_a_file_share_is_refused_with_the_way_out(service: AzureML, fetching: Any) -> None:
    with pytest.raises(InvalidSpec, match="AzureFile") as caught:
        fetching(f"{WORKSPACE}/datastores/share/paths/faq/")
    assert "pvc://" in caught.value.hint


def test_a_refused_identity_is_told_which_roles_it_needs(service: AzureML, fetching: Any) -> None:
    service.faults = [(403, {})]
    with pytest.raises(ModelForbidden, match="status 403") as caught:
        fetching(f"{WORKSPACE}/models/faq/versions/3")
    assert "AzureML Data Scientist" in caught.value.hint


def test_a_pod_without_an_identity_is_told_how_to_get_one(
    service: AzureML, fetching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", service.url + "/nothing")
    with pytest.raises(ModelForbidden, match="No token") as caught:
        fetching(f"{WORKSPACE}/models/faq/versions/3")
    assert "serviceAccountName" in caught.value.hint


def test_a_busy_service_is_waited_for_and_a_broken_one_given_up(
    service: AzureML, fetching: Any
) -> None:
    uri = parse_uri(f"{WORKSPACE}/datastores/lake/paths/faq/")
    service.faults = [(429, {"Retry_After": "0"}), (503, {})]
    location, _ = resolve_azureml(uri, fetching.options)
    assert location.target == "models/faq"
    service.faults = [(500, {})] * 3
    with pytest.raises(ModelUnreachable, match="500"):
        resolve_azureml(uri, fetching.options)


def test_the_token_does_not_follow_a_redirect(
    service: AzureML, fetching: Any, other_server: Any
) -> None:
    service.faults = [(302, {"Location": f"{other_server.url}/x"})]
    with pytest.raises(ModelUnreachable, match="302"):
        fetching(f"{WORKSPACE}/models/faq/versions/3")
    assert other_server.requests == []


# With blobs.

needs_azurite = pytest.mark.skipif(
    not os.environ.get("TEST_AZURITE"), reason="needs Azurite: make test-azure"
)
ACCOUNT = "devstoreaccount1"
# The key of Azurite's only account, the same in every installation (its README).
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FOLDER = {"model.joblib": os.urandom(100_000), "labels/a b.txt": b"x"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from azure.storage.blob import BlobServiceClient

    command = [os.environ["TEST_AZURITE"], "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = (
            re.search(r"listens on https?://127\.0\.0\.1:(\d+)", line) for line in process.stdout
        )
        port = next(match[1] for match in found if match)
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        with BlobServiceClient(url, credential=credential) as client:
            container = client.create_container("models")
            for name, data in FOLDER.items():
                container.upload_blob(f"LocalUpload/1/faq/{name}", data)
        yield url
        process.terminate()
        process.stdout.close()


@needs_azurite
def test_a_registrys_model_is_fetched_with_its_signature(
    service: AzureML, endpoint: str, fetching: Any
) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    sas = generate_container_sas(
        ACCOUNT, "models", KEY, permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip
    service.put_registry(f"{endpoint}/models/LocalUpload/1/faq", sas)
    # The container is the last part but one only where the model is a folder at its root.
    reference = service.answers[f"{REGISTRY}/datarefs/faq/versions/5"]
    reference["blobReferenceForConsumption"]["credential"]["sasUri"] = f"{endpoint}/models?{sas}"
    fetching("azureml://registries/shared/models/faq/versions/5")
    assert fetching.files == FOLDER


@needs_azurite
@pytest.mark.parametrize(
    "uri",
    [f"{WORKSPACE}/models/faq/versions/3", f"{WORKSPACE}/datastores/lake/paths/LocalUpload/1/faq/"],
)
def test_a_workspaces_model_is_fetched(
    uri: str, service: AzureML, endpoint: str, fetching: Any
) -> None:
    service.put_workspace(ACCOUNT, "http", "core.windows.net")
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint}"
    fetching.change(
        environ={**fetching.options.environ, "AZURE_STORAGE_CONNECTION_STRING": connection}
    )
    fetching(uri)
    assert fetching.files == FOLDER
