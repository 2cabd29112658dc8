"""Model URIs: every spelling that users write, brought to one `Location`. Pure: no network, no environment.

What each storage service accepts, and the way it is reached, is in the table of `parse_uri`. A URI never carries
credentials: it is stored in the ScoringModel, shown by kubectl and written to logs.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from model_scorer.errors import InvalidSpec

MAX_URI_CHARACTERS = 2048

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

KNOWN_SCHEMES = (
    *(
        "abfs",
        "abfss",
        "az",
        "azureml",
        "file",
        "gs",
        "hf",
        "http",
        "https",
        "models",
        "oci",
        "pvc",
    ),
    *("runs", "s3", "wasb", "wasbs"),
)

# Query parameters that carry a credential: shared access signatures, presigned S3 and GCS URLs, tokens of web services.
_SECRET_PARAMETERS = frozenset(
    {
        *("sig", "skoid", "sktid", "signature", "awsaccesskeyid", "googleaccessid"),
        *("x-amz-credential", "x-amz-signature", "x-amz-security-token"),
        *("x-goog-credential", "x-goog-signature"),
        *("token", "access_token", "private_token", "apikey", "api_key", "key", "code"),
        *("password", "secret", "authorization", "auth"),
    }
)

# The endpoints of Azure Blob Storage: public cloud, US government, China, Germany (closed, but URIs live on).
# https://learn.microsoft.com/azure/storage/common/storage-account-overview#standard-endpoints
_AZURE_CLOUDS = (
    "core.windows.net",
    "core.usgovcloudapi.net",
    "core.chinacloudapi.cn",
    "core.cloudapi.de",
)
_AZURE_HOST = re.compile(
    r"(?P<account>[a-z0-9]{3,24})(?P<secondary>-secondary)?"
    r"\.(?:(?P<service>blob|dfs|file)\.(?P<cloud>"
    + "|".join(re.escape(cloud) for cloud in _AZURE_CLOUDS)
    # Accounts with Azure DNS zone endpoints: ACCOUNT.z01.blob.storage.azure.net
    + r")|(?P<zone>z[0-9]{1,3})\.(?P<zone_service>blob|dfs|file)\.storage\.azure\.net)"
)
_AZURE_CONTAINER = re.compile(r"\$root|\$web|\$logs|[a-z0-9](?:-?[a-z0-9]){2,62}")
_S3_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model lies, in the words of the storage that holds it.

    Attributes:
        kind: `file`, `http`, `azure`, `s3`, `gs`, `hf`, `mlflow`, `azureml`, `oci` or `pvc`.
        display: the URI for messages and logs: without query, never with a credential.
        target: what the storage client is asked for: a local path (`file`), a URL (`http`), `CONTAINER/PATH` (`azure`),
            `BUCKET/KEY` (`s3`, `gs`), `OWNER/REPO[@REVISION]/PATH` (`hf`), a URI (`mlflow`, `azureml`), an image
            reference (`oci`), `CLAIM/PATH` (`pvc`).
        folder: True when the URI can only mean a folder (it ends with a slash); otherwise the storage tells.
        options: keyword arguments for the storage client, such as `account_name`. No secrets.
    """

    kind: str
    display: str
    target: str
    folder: bool = False
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> str:
        """The last path segment, the name of a single file in the model folder; never empty."""
        path = urlsplit(self.target).path if self.kind == "http" else self.target
        name = PurePosixPath(unquote(path) if self.kind == "http" else path).name
        return name or "model"

    @property
    def archive_suffix(self) -> str:
        """The archive suffix of the name (`.tar.gz`, `.zip`, …), empty when it names no archive."""
        return archive_suffix(self.name) if not self.folder else ""

    def beside(self, suffix: str) -> "Location":
        """Return the location of the file that has this file's name and a suffix."""
        if self.kind == "http":
            parts = urlsplit(self.target)
            target = urlunsplit(parts._replace(path=parts.path + suffix))
        else:
            target = self.target + suffix
        return replace(self, display=self.display + suffix, target=target, folder=False)


def archive_suffix(name: str) -> str:
    """Return which archive suffix a file name ends with, or an empty string."""
    lowered = name.lower()
    return next((suffix for suffix in ARCHIVE_SUFFIXES if lowered.endswith(suffix)), "")


def redact_uri(uri: str) -> str:
    """Return a URI fit for messages: without user name, password, query and fragment."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.split("?", 1)[0].rpartition("@")[2]
    netloc = parts.netloc
    if not netloc and "@" in parts.path and parts.scheme not in ("azureml", "models"):
        # user:password@host without a scheme looks like one.
        return parts.path.rpartition("@")[2]
    if "@" in netloc:
        user, _, host = netloc.rpartition("@")
        # abfss://CONTAINER@ACCOUNT/…: the part before the @ is the container, not a user.
        container = parts.scheme in _AZURE_SCHEMES and ":" not in user
        netloc = netloc if container else host
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def parse_uri(uri: str) -> Location:
    """Bring a model URI to a `Location`.

    | URI | is |
    |---|---|
    | `file:///models/faq/model.joblib` | a file or folder in the container |
    | `https://host/model.joblib`, `…/model.tar.gz`, `…/faq/` | a file, an archive, a folder with a listing |
    | `https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH` | Azure Blob Storage, also `.dfs.`, DNS-zone accounts |
    | | (`ACCOUNT.z01.blob.storage.azure.net`) and the US government and China clouds |
    | `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH`, `abfs:`, `wasb:`, `wasbs:`, `az:` | the same |
    | `az://CONTAINER/PATH`, `abfs://CONTAINER/PATH` | the account comes from `AZURE_STORAGE_ACCOUNT_NAME` |
    | `s3://BUCKET/KEY`, `s3a:`, `s3n:` | S3 and what speaks its protocol |
    | `gs://BUCKET/KEY`, `gcs:` | Google Cloud Storage |
    | `hf://OWNER/REPO[@REVISION][/PATH]` | the Hugging Face Hub |
    | `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN/PATH` | MLflow |
    | `azureml://…/datastores/D/paths/P`, `azureml://registries/R/models/M/versions/V`, `azureml:M:V` | Azure ML |
    | `oci://REGISTRY/REPOSITORY:TAG` | an image volume |
    | `pvc://CLAIM/PATH` | a persistent volume claim |

    Args:
        uri: as the user wrote it.

    Raises:
        InvalidSpec: no or an unknown scheme, credentials in the URI, a part missing or not allowed. The message
            repeats the URI without its credentials.
    """
    if not uri:
        raise InvalidSpec(
            "The model URI is empty.",
            hint="Set spec.modelURI, for example to https://host/model.joblib.",
        )
    if len(uri) > MAX_URI_CHARACTERS:
        raise InvalidSpec(
            f"The model URI has {len(uri)} characters, at most {MAX_URI_CHARACTERS} are allowed.",
            hint="Use a shorter path.",
        )
    if (
        any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in uri)
        or uri != uri.strip()
    ):
        raise InvalidSpec(
            f"The model URI {redact_uri(uri)!r} holds a control character or begins or ends with a space.",
            hint="Remove it; a space inside a path is written %20.",
        )
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if match is None:
        raise InvalidSpec(
            f"The model URI {redact_uri(uri)!r} has no scheme.",
            hint=f"Begin it with file:///, https:// or another of: {', '.join(KNOWN_SCHEMES)}.",
        )
    scheme = match.group(1).lower()
    parser = _PARSERS.get(scheme)
    if parser is None:
        raise InvalidSpec(
            f"The scheme {scheme!r} of the model URI {redact_uri(uri)!r} is not known.",
            hint=f"Known schemes are: {', '.join(KNOWN_SCHEMES)}.",
        )
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as err:
        raise InvalidSpec(
            f"The model URI {redact_uri(uri)!r} is not well-formed: {err}.",
            hint="Correct spec.modelURI.",
        ) from err
    if port == 0:
        raise _invalid(parts, "names port 0", "Name the port of the server, or none.")
    _refuse_credentials(parts, scheme)
    if parts.fragment:
        raise _invalid(parts, "has a fragment (#…)", "Remove it; write %23 for a # in a path.")
    if ".." in unquote(parts.path).split("/"):
        raise _invalid(parts, "has '..' in its path", "Write the path without it.")
    return parser(parts)


def _invalid(parts: SplitResult, what: str, hint: str) -> InvalidSpec:
    return InvalidSpec(f"The model URI {redact_uri(parts.geturl())!r} {what}.", hint=hint)


def _refuse_credentials(parts: SplitResult, scheme: str) -> None:
    user, at, _ = parts.netloc.rpartition("@")
    if at and (scheme not in _AZURE_SCHEMES or ":" in user or not user):
        raise _invalid(
            parts,
            "carries a user name or password",
            "Put the credentials into a Secret, name it in spec.storage.secretName and take them out of the URI.",
        )
    secret = next(
        (
            k
            for k, _ in parse_qsl(parts.query, keep_blank_values=True)
            if k.lower() in _SECRET_PARAMETERS
        ),
        None,
    )
    if secret is not None:
        raise _invalid(
            parts,
            f"carries a credential in its query parameter {secret!r}",
            "Put it into the Secret that spec.storage.secretName names (AZURE_STORAGE_SAS_TOKEN for a shared access "
            "signature, HTTP_QUERY for any other signed URL) and take the query out of the URI.",
        )


def _refuse_query(parts: SplitResult) -> None:
    if parts.query:
        raise _invalid(
            parts, "has a query (?…), which this storage does not know", "Remove the query."
        )


def _parse_file(parts: SplitResult) -> Location:
    _refuse_query(parts)
    if parts.netloc not in ("", "localhost"):
        raise _invalid(
            parts,
            f"names the host {parts.netloc!r}",
            "A file: URI has three slashes: file:///path/to/model.",
        )
    path = unquote(parts.path)
    if not path.startswith("/"):
        raise _invalid(parts, "has no absolute path", "Write file:///path/to/model.")
    return Location("file", redact_uri(parts.geturl()), path, folder=path.endswith("/"))


def _parse_http(parts: SplitResult) -> Location:
    host = (parts.hostname or "").lower()
    if not host:
        raise _invalid(parts, "names no host", "Write https://host/path.")
    azure = _AZURE_HOST.fullmatch(host)
    if azure is not None and parts.scheme == "https":
        _refuse_query(parts)
        container, _, path = unquote(parts.path).lstrip("/").partition("/")
        return _azure(parts, azure, container, path)
    url = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path or "/", parts.query, ""))
    return Location("http", redact_uri(url), url, folder=parts.path.endswith("/") or not parts.path)


def _parse_azure(parts: SplitResult) -> Location:
    _refuse_query(parts)
    container, at, host = parts.netloc.rpartition("@")
    if not at:
        # az://CONTAINER/PATH: the account is part of the credentials' environment.
        return _azure(parts, None, parts.netloc, parts.path.lstrip("/"))
    host = host.lower()
    azure = _AZURE_HOST.fullmatch(host)
    if azure is None and re.fullmatch(r"[a-z0-9]{3,24}", host):
        azure = _AZURE_HOST.fullmatch(f"{host}.blob.core.windows.net")
    if azure is None:
        raise _invalid(
            parts,
            f"names {host!r}, which is no Azure storage account",
            "Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH.",
        )
    return _azure(parts, azure, container, parts.path.lstrip("/"))


def _azure(parts: SplitResult, host: re.Match[str] | None, container: str, path: str) -> Location:
    service = (host["service"] or host["zone_service"]) if host is not None else "blob"
    if service == "file":
        raise _invalid(
            parts,
            "names an Azure file share",
            "Mount the share as a persistent volume claim and write pvc://CLAIM/PATH, or use a blob container.",
        )
    if not _AZURE_CONTAINER.fullmatch(container):
        raise _invalid(
            parts,
            f"names the container {container!r}, which is no container name",
            "A container name has 3 to 63 lower-case letters, digits and single hyphens.",
        )
    options: dict[str, str] = {}
    if host is not None:
        options["account_name"] = host["account"]
        # The blob endpoint serves hierarchical (dfs) accounts as well, and is the one that the client speaks to.
        account_host = host.string.replace(".dfs.", ".blob.", 1)
        if account_host != f"{host['account']}.blob.core.windows.net":
            options["account_host"] = account_host
    target = f"{container}/{path}".rstrip("/")
    return _object("azure", parts, target, options=options, root=not path)


def _object(
    kind: str,
    parts: SplitResult,
    target: str,
    *,
    options: Mapping[str, str] | None = None,
    root: bool,
) -> Location:
    return Location(
        kind,
        redact_uri(parts.geturl()),
        target,
        folder=root or parts.path.endswith("/"),
        options=MappingProxyType(dict(options or {})),
    )


def _parse_bucket(kind: str) -> Callable[[SplitResult], Location]:
    def parse(parts: SplitResult) -> Location:
        _refuse_query(parts)
        if not _S3_BUCKET.fullmatch(parts.netloc):
            raise _invalid(
                parts,
                f"names the bucket {parts.netloc!r}, which is no bucket name",
                f"Write {kind}://BUCKET/PATH.",
            )
        key = parts.path.lstrip("/")
        return _object(kind, parts, f"{parts.netloc}/{key}".rstrip("/"), root=not key)

    return parse


def _parse_hf(parts: SplitResult) -> Location:
    _refuse_query(parts)
    # urlsplit takes OWNER for the host; a revision stands behind an @ in the second part: hf://OWNER/REPO@REV/PATH.
    segments = [segment for segment in [parts.netloc, *parts.path.split("/")] if segment]
    required = 3 if segments[:1] in (["datasets"], ["spaces"]) else 2
    if len(segments) < required:
        raise _invalid(
            parts, "names no repository", "Write hf://OWNER/REPO or hf://OWNER/REPO@REVISION/PATH."
        )
    return _object("hf", parts, "/".join(segments), root=len(segments) == required)


def _parse_mlflow(parts: SplitResult) -> Location:
    _refuse_query(parts)
    segments = [segment for segment in parts.path.split("/") if segment]
    model = parts.scheme.lower() == "models"
    complete = len(segments) >= 2 or (
        model and len(segments) == 1 and "@" in segments[0].strip("@")
    )
    if parts.netloc or not parts.path.startswith("/") or not complete:
        raise _invalid(
            parts,
            "is incomplete",
            "Write models:/NAME/VERSION or models:/NAME@ALIAS."
            if model
            else "Write runs:/RUN_ID/PATH.",
        )
    uri = f"{parts.scheme.lower()}:/{'/'.join(segments)}"
    return Location("mlflow", uri, uri, folder=True)


_AZUREML_FORMS = (
    re.compile(
        r"azureml://(?:subscriptions/[^/]+/resource[gG]roups/[^/]+/(?:providers/Microsoft\.MachineLearningServices/)?"
        r"workspaces/[^/]+/)?datastores/[^/]+/paths/.+"
    ),
    re.compile(r"azureml://registries/[^/]+/models/[^/]+/(?:versions|labels)/[^/]+"),
    re.compile(
        r"azureml://(?:subscriptions/[^/]+/resource[gG]roups/[^/]+/workspaces/[^/]+/)?models/[^/]+/(?:versions|labels)/[^/]+"
    ),
    re.compile(r"azureml:[^/:@]+(?::[^/:@]+|@[^/:@]+)"),
)


def _parse_azureml(parts: SplitResult) -> Location:
    _refuse_query(parts)
    uri = "azureml:" + parts.geturl().split(":", 1)[1]
    if not any(form.fullmatch(uri) for form in _AZUREML_FORMS):
        raise _invalid(
            parts,
            "has no form that Azure ML knows",
            "Write azureml://subscriptions/S/resourceGroups/R/workspaces/W/datastores/D/paths/P, "
            "azureml://registries/R/models/M/versions/V, or azureml:MODEL:VERSION.",
        )
    folder = uri.endswith("/") or "/paths/" not in uri
    return Location("azureml", uri, uri, folder=folder)


def _parse_oci(parts: SplitResult) -> Location:
    _refuse_query(parts)
    repository = parts.path.strip("/")
    if not parts.netloc or not repository:
        raise _invalid(parts, "names no image", "Write oci://REGISTRY/REPOSITORY:TAG.")
    return Location("oci", redact_uri(parts.geturl()), f"{parts.netloc}/{repository}", folder=True)


def _parse_pvc(parts: SplitResult) -> Location:
    _refuse_query(parts)
    claim = parts.netloc
    labels = claim.split(".")
    if not claim or len(claim) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise _invalid(
            parts,
            f"names the claim {claim!r}, which is no Kubernetes name",
            "Write pvc://CLAIM/PATH.",
        )
    path = unquote(parts.path).strip("/")
    return _object("pvc", parts, f"{claim}/{path}".rstrip("/"), root=not path)


_AZURE_SCHEMES = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})
_PARSERS: Mapping[str, Callable[[SplitResult], Location]] = MappingProxyType(
    {
        "file": _parse_file,
        "http": _parse_http,
        "https": _parse_http,
        **dict.fromkeys(sorted(_AZURE_SCHEMES), _parse_azure),
        **dict.fromkeys(("s3", "s3a", "s3n"), _parse_bucket("s3")),
        **dict.fromkeys(("gs", "gcs"), _parse_bucket("gs")),
        "hf": _parse_hf,
        "models": _parse_mlflow,
        "runs": _parse_mlflow,
        "azureml": _parse_azureml,
        "oci": _parse_oci,
        "pvc": _parse_pvc,
    }
)
