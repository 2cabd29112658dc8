"""Opening object stores: one fsspec file system per kind of location, its backend imported only when it is needed.

Credentials are read by the backends from the environment that the package's docstring lists; nothing of them passes
through our own messages.
"""

import importlib
import json
import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from model_scorer.errors import InvalidSpec, MissingDependency, ModelForbidden
from model_scorer.fetch.location import Location

AZURE_CREDENTIALS = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_ANON",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
)


def open_store(location: Location, environ: Mapping[str, str]) -> Any:
    """Return an fsspec file system for a location.

    Args:
        location: of kind `azure`, `s3`, `gs` or `hf`.
        environ: decides between credentials and anonymous access.

    Raises:
        MissingDependency: the backend is not installed.
        InvalidSpec: the environment and the URI contradict one another, or no account is named.
        ModelForbidden: the credentials are malformed.
    """
    build = {
        "azure": _open_azure,
        "s3": _open_s3,
        "gs": _open_gs,
        "hf": _open_hf,
    }
    try:
        return build[location.kind](location, environ)
    except ImportError as err:
        raise MissingDependency(
            f"{location.display} needs the Python module {err.name or err}, which this image has not.",
            hint="Use a scorer image that holds the storage's client library (spec.image).",
        ) from err
    except (ValueError, TypeError, KeyError) as err:
        # The text of the error may hold the credential.
        raise ModelForbidden(
            f"The credentials for {location.display} are malformed ({type(err).__name__}).",
            hint="Check the values in the Secret that spec.storage.secretName names.",
        ) from None


def _open_azure(location: Location, environ: Mapping[str, str]) -> Any:
    options: dict[str, Any] = dict(location.options)
    account = options.get("account_name")
    connection = environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    named = re.search(r"(?i)(?:^|;)\s*AccountName=([^;]+)", connection)
    if account and named and named[1].strip() != account:
        raise InvalidSpec(
            f"{location.display} names the storage account {account!r}, AZURE_STORAGE_CONNECTION_STRING is for "
            f"{named[1].strip()!r}.",
            hint="Give the connection string of the account that the URI names.",
        )
    if not account and not connection and not environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise InvalidSpec(
            f"{location.display} names no storage account.",
            hint="Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, or set AZURE_STORAGE_ACCOUNT_NAME in the "
            "Secret that spec.storage.secretName names.",
        )
    if connection:
        # Said once more, because the registry of a model may have given it.
        options["connection_string"] = connection
    adlfs = importlib.import_module("adlfs")
    # Its client logs the headers of every request.
    logging.getLogger("azure").setLevel(logging.WARNING)
    if not any(environ.get(name) for name in AZURE_CREDENTIALS):
        options["anon"] = True
    store = adlfs.AzureBlobFileSystem(
        **options,
        use_listings_cache=False,
        skip_instance_cache=True,
        connection_timeout=10,
        read_timeout=60,
    )
    # The client's own patience (15 s, 18 s, 24 s between tries) would multiply with ours; adlfs has no setting for it.
    policy = getattr(getattr(store.service_client, "_config", None), "retry_policy", None)
    if policy is not None:
        policy.total_retries = 0
    return store


def _open_s3(location: Location, environ: Mapping[str, str]) -> Any:
    s3fs = importlib.import_module("s3fs")
    anonymous = environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes")
    return s3fs.S3FileSystem(
        anon=anonymous,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}},
    )


def _open_gs(location: Location, environ: Mapping[str, str]) -> Any:
    # Its way to the newest kinds of buckets asks a second service, by gRPC, before each first byte; nothing here needs it.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = importlib.import_module("gcsfs")
    # A service account's key as a Secret has it; GOOGLE_APPLICATION_CREDENTIALS names a file, which a variable is not.
    key = environ.get("GOOGLE_CREDENTIALS", "").strip()
    token = json.loads(key) if key else None
    if token is not None and not isinstance(token, dict):
        raise ValueError("a service account's key is a JSON object")
    store = gcsfs.GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True)
    # The client's own patience (six tries, half a minute) would multiply with ours; gcsfs has no setting for it.
    once = getattr(type(store)._request, "__wrapped__", None)
    if once is not None:
        store._request = MethodType(once, store)
    return store


def _open_hf(location: Location, environ: Mapping[str, str]) -> Any:
    hub = importlib.import_module("huggingface_hub")
    store = hub.HfFileSystem(
        endpoint=environ.get("HF_ENDPOINT") or None,
        token=environ.get("HF_TOKEN") or False,
        skip_instance_cache=True,
    )
    # Its files read ahead, and a piece is all that is wanted of one.
    store.cat_file = partial(store.cat_file, cache_type="none")
    return store
