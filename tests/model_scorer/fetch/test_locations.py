import pytest

from model_scorer.errors import InvalidSpec
from model_scorer.fetch.location import archive_suffix, parse_uri, redact_uri

AZURE = "https://acct.blob.core.windows.net"

# (URI, kind, target, folder, options)
LOCATIONS = [
    ("file:///models/faq/model.joblib", "file", "/models/faq/model.joblib", False, {}),
    ("file:/models/faq/", "file", "/models/faq/", True, {}),
    ("file://localhost/a%20b", "file", "/a b", False, {}),
    ("http://host/model.joblib", "http", "http://host/model.joblib", False, {}),
    ("https://host:8443/faq/?v=3", "http", "https://host:8443/faq/?v=3", True, {}),
    ("HTTPS://host/m", "http", "https://host/m", False, {}),
    ("https://host", "http", "https://host/", True, {}),
    ("https://bucket.s3.amazonaws.com/m.pt", "http", "https://bucket.s3.amazonaws.com/m.pt", False, {}),
    (f"{AZURE}/models/faq/3/", "azure", "models/faq/3", True, {"account_name": "acct"}),
    (f"{AZURE}/models/faq/m.joblib", "azure", "models/faq/m.joblib", False, {"account_name": "acct"}),
    (f"{AZURE}/models/a%20b/m.pt", "azure", "models/a b/m.pt", False, {"account_name": "acct"}),
    (f"{AZURE}/models", "azure", "models", True, {"account_name": "acct"}),
    (f"{AZURE}/$root/m.pt", "azure", "$root/m.pt", False, {"account_name": "acct"}),
    ("https://acct.dfs.core.windows.net/mfs/m", "azure", "mfs/m", False, {"account_name": "acct"}),
    (
        "https://acct.z01.blob.storage.azure.net/models/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct.z01.blob.storage.azure.net"},
    ),
    (
        "https://acct.z12.dfs.storage.azure.net/models/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct.z12.blob.storage.azure.net"},
    ),
    (
        "https://acct.blob.core.usgovcloudapi.net/models/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct.blob.core.usgovcloudapi.net"},
    ),
    (
        "https://acct.blob.core.chinacloudapi.cn/models/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct.blob.core.chinacloudapi.cn"},
    ),
    (
        "https://acct-secondary.blob.core.windows.net/models/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct-secondary.blob.core.windows.net"},
    ),
    ("http://acct.blob.core.windows.net/c/m", "http", "http://acct.blob.core.windows.net/c/m", False, {}),
    ("abfss://models@acct.dfs.core.windows.net/faq/m", "azure", "models/faq/m", False, {"account_name": "acct"}),
    ("abfs://models@acct.blob.core.windows.net/faq/", "azure", "models/faq", True, {"account_name": "acct"}),
    (
        "abfss://models@acct.dfs.core.usgovcloudapi.net/m",
        "azure", "models/m", False,
        {"account_name": "acct", "account_host": "acct.blob.core.usgovcloudapi.net"},
    ),
    ("wasbs://models@acct.blob.core.windows.net/m", "azure", "models/m", False, {"account_name": "acct"}),
    ("wasb://models@acct.blob.core.windows.net/m", "azure", "models/m", False, {"account_name": "acct"}),
    ("az://models@acct/m", "azure", "models/m", False, {"account_name": "acct"}),
    ("az://models/faq/m", "azure", "models/faq/m", False, {}),
    ("abfs://models/faq/m", "azure", "models/faq/m", False, {}),
    ("s3://bucket/faq/m.joblib", "s3", "bucket/faq/m.joblib", False, {}),
    ("s3a://bucket/faq/", "s3", "bucket/faq", True, {}),
    ("s3n://bucket", "s3", "bucket", True, {}),
    ("gs://bucket/faq/m", "gs", "bucket/faq/m", False, {}),
    ("gcs://bucket/faq/m", "gs", "bucket/faq/m", False, {}),
    ("hf://owner/repo", "hf", "owner/repo", True, {}),
    ("hf://owner/repo@v1.0/sub/m.safetensors", "hf", "owner/repo@v1.0/sub/m.safetensors", False, {}),
    ("hf://datasets/owner/repo", "hf", "datasets/owner/repo", True, {}),
    ("models:/faq/3", "mlflow", "models:/faq/3", True, {}),
    ("models:/faq@champion", "mlflow", "models:/faq@champion", True, {}),
    ("models:/faq/Production", "mlflow", "models:/faq/Production", True, {}),
    ("runs:/0a1b/artifacts/model", "mlflow", "runs:/0a1b/artifacts/model", True, {}),
    (
        "azureml://subscriptions/S/resourceGroups/R/workspaces/W/datastores/D/paths/faq/",
        "azureml", "azureml://subscriptions/S/resourceGroups/R/workspaces/W/datastores/D/paths/faq/", True, {},
    ),
    ("azureml://datastores/D/paths/m.pt", "azureml", "azureml://datastores/D/paths/m.pt", False, {}),
    (
        "azureml://registries/R/models/M/versions/4",
        "azureml", "azureml://registries/R/models/M/versions/4", True, {},
    ),
    ("azureml:faq:3", "azureml", "azureml:faq:3", True, {}),
    ("azureml:faq@latest", "azureml", "azureml:faq@latest", True, {}),
    ("oci://ghcr.io/org/model:3", "oci", "ghcr.io/org/model:3", True, {}),
    ("pvc://claim/faq/m.joblib", "pvc", "claim/faq/m.joblib", False, {}),
    ("pvc://claim", "pvc", "claim", True, {}),
]  # fmt: skip

# (URI, what the message says)
REFUSED = [
    ("", "empty"),
    ("/models/faq", "no scheme"),
    ("models/faq", "no scheme"),
    ("host/model.pkl", "no scheme"),
    ("ftp://host/m", "scheme 'ftp'"),
    ("C:\\models\\m.pkl", "scheme 'c'"),
    ("javascript:alert(1)", "scheme 'javascript'"),
    ("https://host/" + "a" * 2100, "characters"),
    ("https://host/a\nb", "control character"),
    ("https://host/a\x00b", "control character"),
    (" https://host/a", "begins or ends"),
    ("https://user:secret@host/m", "user name or password"),
    ("https://token@host/m", "user name or password"),
    ("s3://key:secret@bucket/m", "user name or password"),
    ("abfss://models:secret@acct.dfs.core.windows.net/m", "user name or password"),
    (f"{AZURE}/c/m?sv=2024&sig=secret", "'sig'"),
    ("https://host/m?X-Amz-Signature=secret", "'X-Amz-Signature'"),
    ("https://host/m?access_token=secret", "'access_token'"),
    ("https://host/m?token=", "'token'"),
    (f"{AZURE}/c/m?snapshot=1", "query"),
    ("s3://bucket/m?versionId=1", "query"),
    ("https://host/m#part", "fragment"),
    ("https://host/a/../b", "'..'"),
    ("https://host/a/%2e%2e/b", "'..'"),
    ("file:///models/../etc/passwd", "'..'"),
    ("file://host/models", "host 'host'"),
    ("file:models", "no absolute path"),
    ("https:///m", "no host"),
    ("https://host:99999/m", "not well-formed"),
    ("https://host:0/m", "port 0"),
    ("https://[::1/m", "not well-formed"),
    ("https://acct.file.core.windows.net/share/m", "file share"),
    (f"{AZURE}/", "container ''"),
    (f"{AZURE}/UPPER/m", "container 'UPPER'"),
    ("abfss://models@example.com/m", "no Azure storage account"),
    ("s3:///key", "bucket ''"),
    ("hf://owner", "no repository"),
    ("models:/faq", "incomplete"),
    ("models://faq/3", "incomplete"),
    ("runs:/abc", "incomplete"),
    ("azureml:faq", "no form"),
    ("azureml://workspaces/W/paths/x", "no form"),
    ("oci://ghcr.io", "no image"),
    ("pvc://Claim_1/x", "no Kubernetes name"),
    ("pvc:///x", "no Kubernetes name"),
]


@pytest.mark.parametrize(("uri", "kind", "target", "folder", "options"), LOCATIONS)
def test_uri_is_normalised(
    uri: str, kind: str, target: str, folder: bool, options: dict[str, str]
) -> None:
    location = parse_uri(uri)
    assert (location.kind, location.target, location.folder) == (kind, target, folder)
    assert dict(location.options) == options
    assert "?" not in location.display


@pytest.mark.parametrize(("uri", "said"), REFUSED)
def test_uri_is_refused_with_the_reason_and_a_way_out(uri: str, said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_uri(uri)
    assert said in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("uri", "redacted"),
    [
        ("https://user:pw@host/a?sig=x#f", "https://host/a"),
        ("abfss://c@acct.dfs.core.windows.net/a", "abfss://c@acct.dfs.core.windows.net/a"),
        ("user:pw@host/a", "host/a"),
        ("https://[::1?sig=x", "https://[::1"),
    ],
)
def test_redacted_uri_has_no_credentials(uri: str, redacted: str) -> None:
    assert redact_uri(uri) == redacted


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://host/a/m%20x.pkl?v=1", "m x.pkl"),
        ("s3://bucket/k/m.pt", "m.pt"),
        ("file:///a/b", "b"),
        ("https://host", "model"),
    ],
)
def test_name_is_the_last_segment(uri: str, name: str) -> None:
    assert parse_uri(uri).name == name


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.tar.gz", ".tar.gz"),
        ("A.TGZ", ".tgz"),
        ("a.zip", ".zip"),
        ("a.tar", ".tar"),
        ("a.keras", ""),
        ("tar", ""),
    ],
)
def test_archives_are_known_by_suffix(name: str, suffix: str) -> None:
    assert archive_suffix(name) == suffix
