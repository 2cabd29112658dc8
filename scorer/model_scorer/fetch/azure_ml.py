"""Models of Azure ML (`azureml:`), brought to the blobs that hold them.

| URI | what is asked, in this order |
|---|---|
| a path on a datastore | the datastore: which account and container it is |
| a model of a workspace | the model's version: the datastore path where it lies; then the datastore |
| a model of a registry | discovery: where the registry is; the model's version: its blobs; a signature that opens them |

No SDK of Azure ML is needed for that. A workspace's blobs are read with the credentials that serve for Azure Storage
elsewhere, a registry's with the shared access signature that the registry hands out, which stays in memory.

The operations are those of https://learn.microsoft.com/rest/api/azureml/. A registry is asked at the address that its
discovery names, as `az ml` does it: models of other people's registries cannot be read through Azure Resource Manager.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from model_scorer.errors import InvalidSpec
from model_scorer.fetch.addresses import is_address
from model_scorer.fetch.azure_ml_service import AzureMLService
from model_scorer.fetch.location import Location, parse_uri
from model_scorer.fetch.object_stores import AZURE_CREDENTIALS
from model_scorer.fetch.options import FetchOptions

log = logging.getLogger(__name__)

_WORKSPACE_API = "2024-04-01"
_REGISTRY_API = "2021-10-01-dataplanepreview"
_PROVIDER = "providers/Microsoft.MachineLearningServices"

_WORKSPACE = re.compile(
    r"azureml://subscriptions/(?P<subscription>[^/]+)/resource[gG]roups/(?P<group>[^/]+)/"
    r"(?:providers/Microsoft\.MachineLearningServices/)?workspaces/(?P<workspace>[^/]+)/(?P<rest>.+)"
)
_DATASTORE = re.compile(r"datastores/(?P<store>[^/]+)/paths/(?P<path>.+)")
_MODEL = re.compile(
    r"models/(?P<name>[^/]+)/(?:versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+))"
)
_SHORT_MODEL = re.compile(r"azureml:(?P<name>[^/:@]+)(?::(?P<version>[^/:@]+)|@(?P<label>[^/:@]+))")
_REGISTRY = re.compile(r"azureml://registries/(?P<registry>[^/]+)/(?P<rest>.+)")
# What Azure ML itself sets in its jobs.
_WORKSPACE_VARIABLES = {
    "subscription": "AZUREML_ARM_SUBSCRIPTION",
    "group": "AZUREML_ARM_RESOURCEGROUP",
    "workspace": "AZUREML_ARM_WORKSPACE_NAME",
}


def resolve_azureml(location: Location, options: FetchOptions) -> tuple[Location, FetchOptions]:
    """Find the blobs behind an `azureml:` location.

    Args:
        location: of kind `azureml`.
        options: patience; where the URI names no workspace, the environment does (`AZUREML_ARM_SUBSCRIPTION`, …).

    Returns:
        A location of kind `azure`, displayed as the user wrote it, and options whose environment opens it.

    Raises:
        ScorerError: InvalidSpec (no workspace is named, a datastore that is no blob storage), ModelNotFound,
            ModelForbidden, ModelUnreachable, MissingDependency.
    """
    resolver = _Resolver(location, options)
    if match := _REGISTRY.fullmatch(location.target):
        return resolver.resolve_registry_model(match["registry"], match["rest"])
    return resolver.resolve_in_workspace(), options


class _Resolver:
    def __init__(self, location: Location, options: FetchOptions) -> None:
        self._location = location
        self._options = options
        self._service = AzureMLService(location.display, options)

    # Workspaces.

    def resolve_in_workspace(self) -> Location:
        """Return the blobs of a datastore path or a workspace's model."""
        target = self._location.target
        if found := _WORKSPACE.fullmatch(target):
            workspace, rest = self._workspace_url(found), found["rest"]
        else:
            workspace = self._workspace_url(self._workspace_of_environment())
            rest = target.removeprefix("azureml://")
            if short := _SHORT_MODEL.fullmatch(target):
                version, label = short["version"], short["label"]
                which = f"versions/{version}" if version else f"labels/{label}"
                rest = f"models/{short['name']}/{which}"
        if model := _MODEL.fullmatch(rest):
            _, properties = self._model(workspace, model, _WORKSPACE_API)
            uri = _text(properties, "modelUri")
            found = _WORKSPACE.fullmatch(uri)
            if found is None or not _DATASTORE.fullmatch(found["rest"]):
                return self._parse_blobs(uri)
            workspace, rest = self._workspace_url(found), found["rest"]
        path = _DATASTORE.fullmatch(rest)
        assert path is not None, "parse_uri lets no other form through"
        url = f"{workspace}/datastores/{_segment(path['store'])}?api-version={_WORKSPACE_API}"
        return self._blobs_of_datastore(_properties(self._service.ask(url)), path)

    def _workspace_url(self, named: re.Match[str] | Mapping[str, str]) -> str:
        return (
            f"{self._service.manager}/subscriptions/{_segment(named['subscription'])}"
            f"/resourceGroups/{_segment(named['group'])}/{_PROVIDER}/workspaces/{_segment(named['workspace'])}"
        )

    def _workspace_of_environment(self) -> Mapping[str, str]:
        environ = self._options.environ
        missing = [name for name in _WORKSPACE_VARIABLES.values() if not environ.get(name)]
        if missing:
            raise InvalidSpec(
                f"{self._location.display} names no workspace.",
                hint="Write azureml://subscriptions/S/resourceGroups/R/workspaces/W/models/NAME/versions/VERSION, or set "
                f"{', '.join(missing)} in the Secret that spec.storage.secretName names.",
            )
        return {part: environ[name].strip() for part, name in _WORKSPACE_VARIABLES.items()}

    def _blobs_of_datastore(self, properties: Mapping[str, Any], path: re.Match[str]) -> Location:
        kind = _text(properties, "datastoreType")
        container = _text(properties, "containerName") or _text(properties, "filesystem")
        if kind not in ("AzureBlob", "AzureDataLakeGen2") or not container:
            raise InvalidSpec(
                f"{self._location.display} is on the datastore {path['store']!r} of the kind {kind or 'unknown'!r}.",
                hint="Only blob containers (AzureBlob, AzureDataLakeGen2) are read. Mount a file share as a persistent "
                "volume claim and write pvc://CLAIM/PATH.",
            )
        endpoint = _text(properties, "endpoint") or "core.windows.net"
        host = f"{_text(properties, 'accountName')}.blob.{endpoint}"
        return self._parse_blobs(f"abfss://{container}@{host}/{path['path']}")

    def _parse_blobs(self, uri: str) -> Location:
        blobs = parse_uri(uri)
        if blobs.kind != "azure":
            raise InvalidSpec(
                f"{self._location.display} lies at {blobs.display}, which is not in Azure Storage.",
                hint="Name that URI in spec.modelURI.",
            )
        log.info("found in Azure ML", extra={"uri": self._location.display, "at": blobs.display})
        return replace(blobs, display=self._location.display)

    # Registries.

    def resolve_registry_model(self, registry: str, rest: str) -> tuple[Location, FetchOptions]:
        """Return the blobs of a registry's model, and options with the signature that opens them."""
        match = _MODEL.fullmatch(rest)
        assert match is not None, "parse_uri lets no other form through"
        service, name = self._service, _segment(match["name"])
        found = service.ask(
            f"{service.discovery}/registrymanagement/v1.0/registries/{_segment(registry)}/discovery"
        )
        base = (
            f"{_text(found, 'primaryRegionResourceProviderUri').rstrip('/')}/mferp/managementfrontend"
            f"/subscriptions/{_segment(_text(found, 'subscriptionId'))}"
            f"/resourceGroups/{_segment(_text(found, 'resourceGroup'))}/{_PROVIDER}/registries/{_segment(registry)}"
        )
        version, properties = self._model(base, match, _REGISTRY_API)
        uri = _text(properties, "modelUri")
        blobs, endpoint = self._registry_blobs(uri)
        asset = f"azureml://registries/{unquote(registry)}/models/{unquote(name)}/versions/{unquote(version)}"
        answer = service.ask(
            f"{base}/datarefs/{name}/versions/{version}?api-version={_REGISTRY_API}",
            {"assetId": asset, "blobUri": uri},
        )
        credential = _part(_part(answer, "blobReferenceForConsumption"), "credential")
        signature = urlsplit(_text(credential, "sasUri")).query
        if signature:
            connection = f"BlobEndpoint={endpoint};SharedAccessSignature={signature}"
            environ = {**self._options.environ, "AZURE_STORAGE_CONNECTION_STRING": connection}
            blobs = replace(blobs, options=MappingProxyType({}))
        else:
            # A registry that everybody may read. The pod's own credentials are for other accounts.
            environ = {k: v for k, v in self._options.environ.items() if k not in AZURE_CREDENTIALS}
        return blobs, replace(self._options, environ=environ)

    def _registry_blobs(self, uri: str) -> tuple[Location, str]:
        """Return the location of a registry's blobs, and the endpoint of their account."""
        parts = urlsplit(uri)
        host = parts.hostname or ""
        if not is_address(host):
            return self._parse_blobs(uri), f"https://{host}"
        # The storage of an emulator, whose accounts are a part of the path.
        account, _, target = unquote(parts.path).strip("/").partition("/")
        folder = parts.path.endswith("/")
        blobs = Location("azure", self._location.display, target, folder=folder)
        return blobs, f"{parts.scheme}://{parts.netloc}/{account}"

    # Both.

    def _model(self, base: str, match: re.Match[str], api: str) -> tuple[str, Mapping[str, Any]]:
        """Return a model's version, fit for a URL, and its properties."""
        name = _segment(match["name"])
        if match["version"]:
            version = _segment(match["version"])
            answer = self._service.ask(f"{base}/models/{name}/versions/{version}?api-version={api}")
            return version, _properties(answer)
        if match["label"] != "latest":
            raise InvalidSpec(
                f"{self._location.display} names the label {match['label']!r}, and Azure ML models have only 'latest'.",
                hint="Name a version, or labels/latest.",
            )
        query = urlencode({"api-version": api, "$orderBy": "createdtime desc", "$top": "1"})
        versions = self._service.ask(f"{base}/models/{name}/versions?{query}").get("value")
        if not isinstance(versions, list) or not versions or not isinstance(versions[0], dict):
            raise self._service.not_found("no version")
        version = _segment(_text(versions[0], "name"))
        log.info("latest version", extra={"uri": self._location.display, "version": version})
        return version, _properties(versions[0])


def _segment(text: str) -> str:
    """Return a path segment as it stands in a URL, however the URI had it."""
    return quote(unquote(text), safe="")


def _part(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = answer.get(key)
    return part if isinstance(part, dict) else {}


def _properties(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return _part(answer, "properties")


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    return value if isinstance(value, str) else ""
