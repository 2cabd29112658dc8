"""The condition about the autoscaler: whether it exists, and whether it has its metrics."""

from __future__ import annotations

from scoring_operator.api import Autoscaling, Manifest, ScoringModel
from scoring_operator.status.conditions import Condition, condition
from scoring_operator.status.observed import Observed
from scoring_operator.status.reasons import Reason

_TYPE = "Autoscaling"


def derive_autoscaling(model: ScoringModel, observed: Observed) -> Condition | None:
    """Whether the number of pods follows the load; None for a fixed number."""
    autoscaling = model.autoscaling
    if autoscaling is None:
        return None
    if autoscaling.autoscaler == "KEDA":
        return _keda(autoscaling, observed)
    if autoscaling.target_in_flight_requests and observed.custom_metrics is False:
        message = (
            "spec.autoscaling.targetInFlightRequests needs a custom metrics API (custom.metrics.k8s.io), and there is "
            "none. Install one, such as prometheus-adapter, or set spec.autoscaling.autoscaler to KEDA."
        )
        return condition(_TYPE, False, Reason.METRICS_MISSING, message)
    for c in _conditions(observed.autoscaler):
        if c.get("type") == "ScalingActive" and c.get("status") == "False":
            if c.get("reason") == "ScalingDisabled":
                continue
            hint = "Install metrics-server"
            if autoscaling.target_in_flight_requests:
                hint += ", and check the custom metrics API"
            message = f"{c.get('message', 'no metrics')}. {hint}."
            return condition(_TYPE, False, Reason.METRICS_MISSING, message)
        if c.get("type") == "ScalingActive" and c.get("status") == "True":
            return condition(_TYPE, True, Reason.READY, c.get("message", "scaling works"))
    return condition(_TYPE, None, Reason.PROGRESSING, "The autoscaler has no metrics yet.")


def _keda(autoscaling: Autoscaling, observed: Observed) -> Condition:
    if observed.keda is False:
        message = (
            "spec.autoscaling.autoscaler is KEDA, and KEDA is not installed, so the number of pods stays as it is. "
            "Install it (on AKS: az aks update --enable-keda), or remove the field."
        )
        return condition(_TYPE, False, Reason.KEDA_MISSING, message)
    if autoscaling.target_in_flight_requests and not observed.prometheus:
        message = (
            "spec.autoscaling.targetInFlightRequests needs Prometheus, and the operator does not know where it is. "
            "Set KEDA_PROMETHEUS_URL in the operator's settings."
        )
        return condition(_TYPE, False, Reason.METRICS_MISSING, message)
    for c in _conditions(observed.scaled_object):
        if c.get("type") != "Ready":
            continue
        if c.get("status") == "True":
            return condition(_TYPE, True, Reason.READY, c.get("message") or "KEDA scales")
        if c.get("status") == "False":
            message = f"KEDA says: {c.get('message') or c.get('reason')}. See kubectl describe scaledobject."
            return condition(_TYPE, False, Reason.METRICS_MISSING, message)
    return condition(_TYPE, None, Reason.PROGRESSING, "KEDA has not answered yet.")


def _conditions(manifest: Manifest | None) -> list[Manifest]:
    return (manifest or {}).get("status", {}).get("conditions") or []
