"""The HorizontalPodAutoscaler."""

from __future__ import annotations

from scoring_operator.api import Autoscaling, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names

DEFAULT_CPU_PERCENT = 70
IN_FLIGHT_METRIC = "scorer_requests_in_flight"


def build_autoscaler(model: ScoringModel, autoscaling: Autoscaling) -> Manifest:
    """The autoscaler of the model's Deployment.

    Args:
        model: the ScoringModel.
        autoscaling: its `spec.autoscaling`.
    """
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model.name},
        "minReplicas": autoscaling.min_replicas,
        "maxReplicas": autoscaling.max_replicas,
        "metrics": _metrics(autoscaling),
        "behavior": {
            # Up at once and at most doubling: a new pod's model load is the only brake it needs.
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "policies": [
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                ],
            },
            "scaleDown": {
                "stabilizationWindowSeconds": autoscaling.scale_down_delay_seconds,
                "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
            },
        },
    }
    return names.child(Kinds.AUTOSCALER, model, model.name, spec=spec)


def _metrics(autoscaling: Autoscaling) -> list[Manifest]:
    cpu = autoscaling.target_cpu_utilization_percent
    in_flight = autoscaling.target_in_flight_requests
    if cpu is None and in_flight is None:
        cpu = DEFAULT_CPU_PERCENT
    metrics: list[Manifest] = []
    if cpu is not None:
        target = {"type": "Utilization", "averageUtilization": cpu}
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    if in_flight is not None:
        target = {"type": "AverageValue", "averageValue": str(in_flight)}
        pods = {"metric": {"name": IN_FLIGHT_METRIC}, "target": target}
        metrics.append({"type": "Pods", "pods": pods})
    return metrics
