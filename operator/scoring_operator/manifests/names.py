"""Names, labels and owner references: how children are found, and whose they are."""

from __future__ import annotations

from scoring_operator.api import Kind, Manifest, ScoringModel

MANAGER = "scoring-operator"
#: Every child and pod carries it, so that a watch can ask the server for ours alone.
MANAGED_BY_SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"
INSTANCE_LABEL = "app.kubernetes.io/instance"
#: The selector of the pods that serve the model.
MODEL_LABEL = "mlscoring.io/scoringmodel"
#: The selector of the pods that serve the canary; its value is the model's name too.
CANARY_LABEL = "mlscoring.io/canary"
REVISION_LABEL = "mlscoring.io/revision"
#: Hash of the manifest as it was last applied; lets a restart see that nothing is to be written.
APPLIED_ANNOTATION = "mlscoring.io/applied"
#: The pod template that a Deployment was given.
TEMPLATE_ANNOTATION = "mlscoring.io/template"

HTTP_PORT = 8080
PROBE_PORT = 8081


def selector(model: ScoringModel, *, canary: bool = False) -> dict[str, str]:
    """The labels that select the pods: one label, so that nothing else can ever match."""
    return {CANARY_LABEL if canary else MODEL_LABEL: model.name}


def workload_name(model: ScoringModel, *, canary: bool = False) -> str:
    """Name of the Deployment, the Service and the Ingress."""
    return f"{model.name}-canary" if canary else model.name


def keys_secret_name(model: ScoringModel) -> str | None:
    """The Secret with the API keys, the user's or ours; None without keys."""
    if model.auth.mode == "None":
        return None
    return model.auth.secret_name or f"{model.name}-keys"


def tls_secret_name(model: ScoringModel) -> str:
    """The Secret with the certificate of the host."""
    given = model.ingress.tls_secret_name if model.ingress else None
    return given or f"{model.name}-tls"


def pins_name(model: ScoringModel) -> str:
    """The ConfigMap with the digest of each revision."""
    return f"{model.name}-pins"


def service_account_name(model: ScoringModel) -> str:
    """The ServiceAccount that the pods run as."""
    return model.storage.service_account_name or model.name


def labels(model: ScoringModel) -> dict[str, str]:
    """The labels of every child and pod."""
    return {
        "app.kubernetes.io/name": "scoringmodel",
        INSTANCE_LABEL: model.name,
        "app.kubernetes.io/managed-by": MANAGER,
    }


def owner_reference(model: ScoringModel) -> Manifest:
    """The controller reference that lets Kubernetes collect the children of a deleted ScoringModel."""
    return {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "name": model.name,
        "uid": model.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child(
    kind: Kind,
    model: ScoringModel,
    name: str,
    *,
    annotations: dict[str, str] | None = None,
    **content: object,
) -> Manifest:
    """A manifest with the identity, labels and owner that every child has.

    Args:
        kind: of the child.
        model: its owner.
        name: of the child.
        annotations: of the child.
        **content: the other top-level fields, such as `spec`.
    """
    metadata: Manifest = {
        "name": name,
        "namespace": model.namespace,
        "labels": labels(model),
        "ownerReferences": [owner_reference(model)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **content}
