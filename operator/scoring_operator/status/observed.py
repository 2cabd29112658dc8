"""What the operator found in the cluster for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scoring_operator.api import Manifest
from scoring_operator.status.termination import Finding


@dataclass(frozen=True, slots=True)
class Observed:
    """Stored objects, as the API server gives them.

    Args:
        deployment: of the model; None when it does not exist.
        replica_sets: of the model.
        pods: of the model and its canary.
        autoscaler: of the model.
        scaled_object: KEDA's, of the model.
        keda: whether KEDA is installed; None when it was not asked.
        custom_metrics: whether a custom metrics API is there; None when it was not asked.
        prometheus: whether KEDA has been told where Prometheus is.
        ingress: of the model.
        route: the HTTPRoute of the model.
        certificate: the cert-manager Certificate.
        certificate_problem: what is wrong with the certificate in the Secret, for certificates that are not
            cert-manager's; None when it can be used.
        certificate_expiry: RFC 3339 time at which the certificate ends.
        downloads: what fetching pods say by now, by name of the pod.
        known_digest: the digest in the stored status, when it is of the wanted revision.
        problem: what kept the operator from applying all children.
    """

    deployment: Manifest | None = None
    replica_sets: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    autoscaler: Manifest | None = None
    scaled_object: Manifest | None = None
    keda: bool | None = None
    custom_metrics: bool | None = None
    prometheus: bool = False
    ingress: Manifest | None = None
    route: Manifest | None = None
    certificate: Manifest | None = None
    certificate_problem: Finding | None = None
    certificate_expiry: str | None = None
    downloads: Mapping[str, str] = field(default_factory=dict)
    known_digest: str | None = None
    problem: Finding | None = None
