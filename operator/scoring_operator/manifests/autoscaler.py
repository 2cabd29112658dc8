"""The autoscaler: a HorizontalPodAutoscaler, or KEDA's ScaledObject; never both."""

from __future__ import annotations

from scoring_operator.api import Autoscaling, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.settings import Settings

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
        "behavior": _behavior(autoscaling),
    }
    return names.child(Kinds.AUTOSCALER, model, model.name, spec=spec)


def build_scaled_object(
    model: ScoringModel, autoscaling: Autoscaling, settings: Settings
) -> Manifest:
    """The same bounds and targets for KEDA, which makes a HorizontalPodAutoscaler of its own from them.

    Args:
        model: the ScoringModel.
        autoscaling: its `spec.autoscaling`.
        settings: where KEDA finds Prometheus.
    """
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model.name},
        "minReplicaCount": autoscaling.min_replicas,
        "maxReplicaCount": autoscaling.max_replicas,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(autoscaling)}},
        "triggers": _triggers(model, autoscaling, settings),
    }
    return names.child(Kinds.SCALED_OBJECT, model, model.name, spec=spec)


def _behavior(autoscaling: Autoscaling) -> Manifest:
    return {
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
    }


def _triggers(model: ScoringModel, autoscaling: Autoscaling, settings: Settings) -> list[Manifest]:
    """KEDA's triggers (https://keda.sh/docs/latest/scalers/cpu/ and .../prometheus/)."""
    cpu = autoscaling.target_cpu_utilization_percent
    in_flight = autoscaling.target_in_flight_requests if settings.prometheus_url else None
    if cpu is None and in_flight is None:
        cpu = DEFAULT_CPU_PERCENT
    triggers: list[Manifest] = []
    if cpu is not None:
        metadata = {"value": str(cpu)}
        triggers.append({"type": "cpu", "metricType": "Utilization", "metadata": metadata})
    if in_flight is not None:
        # Pods of this Deployment alone: names of other models' pods have one part more, or another beginning.
        pods = f'namespace="{model.namespace}",pod=~"{model.name}-[a-z0-9]+-[a-z0-9]+"'
        trigger: Manifest = {
            "type": "prometheus",
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": settings.prometheus_url,
                "query": f"sum({IN_FLIGHT_METRIC}{{{pods}}})",
                "threshold": str(in_flight),
            },
        }
        if settings.keda_authentication:
            reference = {
                "kind": "ClusterTriggerAuthentication",
                "name": settings.keda_authentication,
            }
            trigger["authenticationRef"] = reference
        triggers.append(trigger)
    return triggers


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
