"""S3, against moto's server; runs when TEST_S3 is set, in an environment that has s3fs and moto[server].

An environment of its own: botocore needs python-dateutil below 3, the Kubernetes client of the operator 3 or later.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from model_scorer.errors import ModelForbidden, ModelNotFound, ModelUnreachable

FOLDER = {"model.joblib": os.urandom(100_000), "score.py": b"code", "labels/a b.txt": b"x"}
BIG = os.urandom(20 << 20)

pytestmark = pytest.mark.filterwarnings("default")  # the client libraries' own deprecations


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    client.create_bucket(Bucket="models")
    for name, data in FOLDER.items():
        client.put_object(Bucket="models", Key=f"faq/3/{name}", Body=data)
    client.put_object(Bucket="models", Key="faq/3/", Body=b"")
    client.put_object(Bucket="models", Key="big.bin", Body=BIG)
    yield url
    server.stop()


@pytest.fixture
def s3(endpoint: str, fetching: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return fetching


@pytest.mark.parametrize("uri", ["s3://models/faq/3/", "s3a://models/faq/3"])
def test_folder_is_fetched(uri: str, s3: Any) -> None:
    s3(uri)
    assert s3.files == FOLDER


def test_object_in_parallel_pieces(s3: Any) -> None:
    assert s3("s3://models/big.bin").digest == f"sha256:{hashlib.sha256(BIG).hexdigest()}"
    assert s3.files == {"big.bin": BIG}


@pytest.mark.parametrize("uri", ["s3://models/nothing", "s3://models/nothing/", "s3://nowhere/key"])
def test_missing_object_and_bucket_are_not_found(uri: str, s3: Any) -> None:
    with pytest.raises(ModelNotFound):
        s3(uri)
    s3.assert_empty()


def test_missing_credentials_are_forbidden(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(ModelForbidden, match="NoCredentials"):
        s3("s3://models/big.bin")


def test_store_that_is_down_is_unreachable(
    s3: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    with pytest.raises(ModelUnreachable):
        s3("s3://models/big.bin")
