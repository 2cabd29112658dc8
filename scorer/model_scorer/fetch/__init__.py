"""The fetcher: a model URI in, a complete and verified model folder out; or nothing, and a reason.

Runs as the init container (`python -m model_scorer fetch`). Bytes go from the store to the disk at fixed memory,
their SHA-256 is computed on the way and compared before anybody reads them, and the model folder is filled only when
everything is there. It never loads a model, never executes anything it fetched, and never logs a credential or a
query string. A signature is verified before anything is published; packages that the model asks for are looked for, and
installed from wheels where the operator allows it.

What the model folder then holds: a single file under its own name; a folder's files; an archive's content (an archive
whose only entry is a folder is opened one level further). `.fetched.json` beside them says what was fetched.

Credentials come from the environment, filled from the Secret that `spec.storage.secretName` names:

| storage | variables |
|---|---|
| Azure | workload identity (`AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE`), or `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY` or `AZURE_STORAGE_SAS_TOKEN`, or `AZURE_STORAGE_CONNECTION_STRING`; none of them: anonymous |
| S3 | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, or a web identity; `AWS_NO_SIGN_REQUEST=true`: anonymous |
| Azure ML | an identity as above, or `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and `AZURE_CLIENT_SECRET`; for short URIs `AZUREML_ARM_SUBSCRIPTION`, `AZUREML_ARM_RESOURCEGROUP`, `AZUREML_ARM_WORKSPACE_NAME` |
| Google | workload identity, or `GOOGLE_CREDENTIALS` with the JSON of a service account's key, or `GOOGLE_APPLICATION_CREDENTIALS` with the path of one; none of them: anonymous |
| Hugging Face | `HF_TOKEN`, `HF_ENDPOINT` |
| http(s) | `HTTP_BEARER_TOKEN`, or `HTTP_USERNAME` and `HTTP_PASSWORD`; `HTTP_QUERY` for a signed URL's query |
| MLflow | `MLFLOW_TRACKING_URI` and its `MLFLOW_TRACKING_*` |
| package index | `SCORER_PIP_INDEX_URL`, or pip's `PIP_INDEX_URL`, `PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS`, `PIP_CERT`, … |
| all | `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` |

`oci:` and `pvc:` are volumes: the operator mounts them, read-only, at `SCORER_SOURCE_DIR` (`/mnt/source`), and the
fetcher copies from there. `SCORER_CACHE_DIR`, when set, is a folder that outlives the pod and keeps models by digest.
"""

from model_scorer.fetch.main import Fetched, fetch_model
from model_scorer.fetch.options import FetchOptions

__all__ = ["FetchOptions", "Fetched", "fetch_model"]
