"""Errors of the object stores' clients, turned into ours without repeating their text, which may hold credentials."""

from collections.abc import Iterator

from model_scorer.errors import ModelForbidden, ModelNotFound, ModelUnreachable, ScorerError
from model_scorer.fetch.retry import TransientError

_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialUnavailableError",
    "GatedRepoError",
)
_REFUSED = ("ClientAuthenticationError", "DefaultCredentialsError", "TokenRetrievalError")
_MISSING = (
    "ResourceNotFoundError",
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "EntryNotFoundError",
)


def translate_store_error(err: BaseException, display: str) -> ScorerError | TransientError:
    """Return our error for one that a storage client raised.

    Args:
        err: the client's error; its causes are looked at too.
        display: the object's URI.
    """
    if isinstance(err, ScorerError | TransientError):
        return err
    chain = list(_chain(err))
    names = [kind.__name__ for link in chain for kind in type(link).__mro__]
    status = next((status for link in chain if (status := _status_of(link))), 0)
    said = f"{type(err).__name__}{f', status {status}' if status else ''}"
    if (
        status in (401, 403)
        or any(name in names for name in (*_NO_CREDENTIALS, *_REFUSED))
        or _is(chain, PermissionError)
    ):
        return ModelForbidden(
            f"Access to {display} was refused ({said}).",
            hint="Name a Secret with the store's credentials in spec.storage.secretName, or a service account with "
            "workload identity in spec.storage.serviceAccountName, and check that it may read the object "
            "(on Azure: the role Storage Blob Data Reader).",
        )
    if (
        status in (404, 410)
        # MLflow's word for an alias, a stage or a run that it does not have.
        or (status == 400 and "MlflowException" in names)
        or any(name in names for name in _MISSING)
        or _is(chain, FileNotFoundError)
    ):
        return ModelNotFound(
            f"Nothing lies at {display} ({said}).",
            hint="Check spec.modelURI for spelling, case and version.",
        )
    unreachable = ModelUnreachable(
        f"{display} could not be read ({said}).",
        hint="Check the store's name and state, and that the pod may reach it (DNS, network policies, firewall of "
        "the storage account).",
    )
    weather = status in (408, 412, 429) or status >= 500 or (status == 0)
    return TransientError(unreachable) if weather else unreachable


def _chain(err: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if err is None:
            return
        yield err
        err = err.__cause__ or err.__context__


def _is(chain: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(link, kind) for link in chain)


def _status_of(err: BaseException) -> int:
    """Return the HTTP status that an error carries: azure-core, aiohttp, botocore, MLflow and huggingface_hub differ."""
    response = getattr(err, "response", None)
    mlflow_status = getattr(err, "get_http_status_code", None)
    if callable(mlflow_status):
        status = mlflow_status()
    elif isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = (
            getattr(err, "status_code", None)
            or getattr(err, "status", None)
            or getattr(response, "status_code", None)
        )
    return status if isinstance(status, int) and 100 <= status <= 599 else 0
