"""Azure ML's REST API: one question at a time, with a token of whoever the pod is, and errors that say the way out."""

import http.client
import importlib
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from model_scorer.errors import (
    MissingDependency,
    ModelForbidden,
    ModelNotFound,
    ModelUnreachable,
    ScorerError,
)
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.retry import TransientError, run_with_retries
from model_scorer.fetch.web_download import parse_retry_after
from model_scorer.fetch.web_session import build_ssl_context, describe_error

_TIMEOUT_SECONDS = 60.0
_MAX_ANSWER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Cloud:
    """Where a cloud's services answer."""

    manager: str
    discovery: str


_PUBLIC = _Cloud("https://management.azure.com", "https://eastus.api.azureml.ms")
# By the host where the cloud's identities log in, which workload identity sets in AZURE_AUTHORITY_HOST.
_CLOUDS = {
    "login.microsoftonline.us": _Cloud(
        "https://management.usgovcloudapi.net", "https://usgovarizona.api.ml.azure.us"
    ),
    "login.chinacloudapi.cn": _Cloud(
        "https://management.chinacloudapi.cn", "https://chinaeast2.api.ml.azure.cn"
    ),
}


class AzureMLService:
    """Azure ML, asked about one model.

    Args:
        display: the model's URI for messages.
        options: patience; the environment says which cloud this is, and may name other addresses of its services
            (`AZURE_RESOURCE_MANAGER_URL`, `AZUREML_REGISTRY_DISCOVERY_URL`: private clouds).

    Attributes:
        manager: URL of Azure Resource Manager.
        discovery: URL of the service that knows where a registry is.
    """

    def __init__(self, display: str, options: FetchOptions) -> None:
        environ = options.environ
        authority = environ.get("AZURE_AUTHORITY_HOST", "").strip()
        host = urlsplit(authority if "//" in authority else f"//{authority}").hostname or ""
        cloud = _CLOUDS.get(host, _PUBLIC)
        self.manager = (environ.get("AZURE_RESOURCE_MANAGER_URL") or cloud.manager).rstrip("/")
        self.discovery = (environ.get("AZUREML_REGISTRY_DISCOVERY_URL") or cloud.discovery).rstrip(
            "/"
        )
        self._scope = f"{cloud.manager}/.default"
        self._display = display
        self._retry = options.retry
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=build_ssl_context()), _NoRedirect
        )
        self._credential: Any = None

    def ask(self, url: str, body: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the JSON object that a URL answers with.

        Args:
            url: to GET, or to POST to when there is a body.
            body: sent as JSON.

        Raises:
            ScorerError: ModelNotFound, ModelForbidden, ModelUnreachable (after retries), MissingDependency.
        """
        return run_with_retries(lambda: self._ask_once(url, body), self._retry)

    def _ask_once(self, url: str, body: Mapping[str, str] | None) -> dict[str, Any]:
        request = urllib.request.Request(
            url,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                answer = json.loads(response.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as err:
            with err:
                raise self._refusal(err.code, parse_retry_after(err.headers)) from err
        except (OSError, http.client.HTTPException) as err:
            reason = err.reason if isinstance(err, urllib.error.URLError) else err
            said = describe_error(reason) if isinstance(reason, Exception) else str(reason)
            raise TransientError(self._unreachable(f"did not answer: {said}")) from err
        except ValueError as err:
            raise self._unreachable("answered something that is no JSON") from err
        if not isinstance(answer, dict):
            raise self._unreachable("answered something that is no object")
        return answer

    def _token(self) -> str:
        if self._credential is None:
            self._credential = self._open_credential()
        try:
            token: str = self._credential.get_token(self._scope).token
        except Exception as err:
            # Its text may quote the answer to a request for a token.
            raise ModelForbidden(
                f"No token could be had for {self._display} ({type(err).__name__}).",
                hint="Azure ML wants an identity: name the service account of a workload identity in "
                "spec.storage.serviceAccountName, with the label azure.workload.identity/use under "
                "spec.podMetadata.labels, or put AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET into the "
                "Secret that spec.storage.secretName names.",
            ) from err
        return token

    def _open_credential(self) -> Any:
        try:
            identity = importlib.import_module("azure.identity")
        except ImportError as err:
            raise MissingDependency(
                f"{self._display} needs the Python module {err.name or 'azure.identity'}, which this image has not.",
                hint="Use a scorer image with the extra 'azure' (spec.image).",
            ) from err
        # Its pipeline logs each request, and each credential that it tries in vain.
        logging.getLogger("azure").setLevel(logging.CRITICAL)
        # Those of a pod; not those of a person at a machine.
        return identity.DefaultAzureCredential(
            exclude_cli_credential=True,
            exclude_developer_cli_credential=True,
            exclude_powershell_credential=True,
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
            exclude_broker_credential=True,
        )

    def _refusal(self, status: int, retry_after: float | None) -> ScorerError | TransientError:
        if status in (401, 403):
            return ModelForbidden(
                f"Azure ML refused access to {self._display} (status {status}).",
                hint="Give the pod's identity the role AzureML Data Scientist on the workspace, or AzureML Registry User "
                "on the registry; and Storage Blob Data Reader on the workspace's storage account.",
            )
        if status == 404:
            return self.not_found("nothing of that name (status 404)")
        error = self._unreachable(f"answered {status}")
        weather = status in (408, 429) or status >= 500
        return TransientError(error, retry_after_seconds=retry_after) if weather else error

    def not_found(self, what: str) -> ModelNotFound:
        """Return the error for a model that the service does not have."""
        return ModelNotFound(
            f"Azure ML has {what} at {self._display}.",
            hint="Check the subscription, resource group, workspace or registry, name and version in spec.modelURI.",
        )

    def _unreachable(self, what: str) -> ModelUnreachable:
        return ModelUnreachable(
            f"Azure ML, asked for {self._display}, {what}.",
            hint="Check that the pod may reach Azure Resource Manager (network policies, firewall, proxy).",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An API that redirects is not the one that was meant, and must not get the token."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing: the redirect's status becomes the error."""
