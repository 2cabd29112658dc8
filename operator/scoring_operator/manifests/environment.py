"""The scorer's settings as environment variables: the operator's side of the list in docs/architecture.md."""

from __future__ import annotations

import json

from scoring_operator.api import Canary, Manifest, ScoringModel
from scoring_operator.manifests import names

MODEL_DIR = "/mnt/model"
KEYS_DIR = "/etc/scorer/keys"
CA_DIR = "/etc/scorer/ca"
SOURCE_DIR = "/mnt/source"
SIGNATURE_DIR = "/etc/scorer/signature"
CACHE_DIR = "/var/cache/scorer"


def fetch_environment(model: ScoringModel, canary: Canary | None) -> list[Manifest]:
    """Variables of the `fetch` container.

    Args:
        model: the ScoringModel.
        canary: given when the pods are the canary's.
    """
    values = {
        "SCORER_MODEL_NAME": model.name,
        "SCORER_MODEL_URI": canary.model_uri if canary else model.model_uri,
        "SCORER_MODEL_SHA256": (canary.sha256 if canary else model.sha256) or "",
        "SCORER_FRAMEWORK": model.framework,
        "SCORER_MODEL_DIR": MODEL_DIR,
        # Where it tells how far it is; the scorer's own default is the same port.
        "SCORER_PROBE_PORT": str(names.PROBE_PORT),
    }
    if model.storage.size_limit:
        values["SCORER_MODEL_SIZE_LIMIT"] = model.storage.size_limit
    if model.signature_key:
        values["SCORER_SIGNATURE_KEY"] = f"{SIGNATURE_DIR}/{model.signature_key.key}"
    return _variables(values) + _ca_variables(model)


def pin_variable(model: ScoringModel, revision: str) -> Manifest:
    """The digest that the first pod of this revision fetched; not there for the first pod itself.

    Args:
        model: the ScoringModel.
        revision: of the pod.
    """
    reference = {"name": names.pins_name(model), "key": revision, "optional": True}
    return {"name": "SCORER_PINNED_SHA256", "valueFrom": {"configMapKeyRef": reference}}


def serve_environment(
    model: ScoringModel, canary: Canary | None, *, revision: str, drain_seconds: int
) -> list[Manifest]:
    """Variables of the `scorer` container; those of `spec.env` come last and may use the others.

    Args:
        model: the ScoringModel.
        canary: given when the pods are the canary's.
        revision: hash of what the pod serves.
        drain_seconds: how long to serve on after SIGTERM.
    """
    values = {
        "SCORER_MODEL_NAME": model.name,
        "SCORER_REVISION": revision,
        "SCORER_MODEL_SHA256": (canary.sha256 if canary else model.sha256) or "",
        "SCORER_FRAMEWORK": model.framework,
        "SCORER_DEVICE": model.device,
        "SCORER_MODEL_DIR": MODEL_DIR,
        "SCORER_AUTH_MODE": model.auth.mode,
        "SCORER_KEYS_DIR": KEYS_DIR if model.auth.mode == "APIKey" else "",
        "SCORER_MAX_BODY_BYTES": str(model.limits.request_bytes),
        "SCORER_TIMEOUT_SECONDS": str(model.limits.timeout_seconds),
        "SCORER_MAX_QUEUED_REQUESTS": str(model.limits.queued_requests),
        "SCORER_MAX_BATCH_SIZE": str(model.batching.max_size),
        "SCORER_MAX_BATCH_DELAY_MS": str(model.batching.max_delay_milliseconds),
        "SCORER_PRECISION": model.precision,
        "SCORER_TRUST_PICKLE": "true" if model.trust_pickle else "",
        "SCORER_DRAIN_SECONDS": str(drain_seconds),
        "SCORER_SAMPLE": _sample(model),
    }
    given = {variable["name"]: dict(variable) for variable in model.env}
    ours = _variables(values) + _ca_variables(model)
    # A name must not occur twice in a pod; the CRD lets the user set the few that are theirs to choose.
    return [v for v in ours if v["name"] not in given] + list(given.values())


def _sample(model: ScoringModel) -> str:
    if model.test is None:
        return ""
    sample = {"request": model.test.request}
    if model.test.has_expectation:
        sample["expect"] = model.test.expect
    # The kubelet expands $(NAME) in values; $$ is its escape
    # (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/).
    return json.dumps(sample, ensure_ascii=False, separators=(",", ":")).replace("$(", "$$(")


def _ca_variables(model: ScoringModel) -> list[Manifest]:
    if model.ca_bundle is None:
        return []
    path = f"{CA_DIR}/{model.ca_bundle.key}"
    return _variables({"SSL_CERT_FILE": path, "REQUESTS_CA_BUNDLE": path})


def _variables(values: dict[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items() if value]
