"""The coded defaults of built-in kinds; each function edits a fresh copy of the object in place."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from local_cluster.schema.pod_defaults import default_pod_resources, default_pod_spec

Manifest = dict[str, Any]


def _spec(obj: Manifest) -> Manifest:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        spec = obj["spec"] = {}
    return spec


def _template(spec: Manifest) -> None:
    template = spec.get("template")
    if template:
        default_pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    if spec.get("minReadySeconds") == 0:
        del spec["minReadySeconds"]
    _template(spec)


def _replica_set(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("replicas", 1)
    obj.setdefault("status", {}).setdefault("replicas", 0)
    _template(spec)


def _daemon_set(obj: Manifest) -> None:
    spec = _spec(obj)
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    status = obj.setdefault("status", {})
    for name in (
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
    ):
        status.setdefault(name, 0)
    _template(spec)


def _stateful_set(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    policy = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    policy.setdefault("whenDeleted", "Retain")
    policy.setdefault("whenScaled", "Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    status = obj.setdefault("status", {})
    status.setdefault("replicas", 0)
    status.setdefault("availableReplicas", 0)
    for claim in spec.get("volumeClaimTemplates") or ():
        _spec(claim).setdefault("volumeMode", "Filesystem")
    _template(spec)


def _job_spec(spec: Manifest) -> None:
    spec.setdefault("completionMode", "NonIndexed")
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = spec["parallelism"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("suspend", False)
    spec.setdefault(
        "podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    )
    spec.setdefault("manualSelector", False)
    _template(spec)


def _job(obj: Manifest) -> None:
    _job_spec(_spec(obj))


def _cron_job(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    template = spec.get("jobTemplate", {}).get("spec")
    if template:
        # The defaults of the job itself are set when it is created; those of its pods are shown here.
        _template(template)


def _pod(obj: Manifest) -> None:
    spec = _spec(obj)
    default_pod_spec(spec)
    default_pod_resources(spec)
    spec.setdefault("enableServiceLinks", True)


def _pod_template(obj: Manifest) -> None:
    _template(obj)


def _service(obj: Manifest) -> None:
    spec = _spec(obj)
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    else:
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault(
            "timeoutSeconds", 10800
        )
    kind = spec.get("type")
    if not kind:
        kind = spec["type"] = "ClusterIP"
    for port in spec.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if kind == "ExternalName":
        return
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    spec.setdefault("internalTrafficPolicy", "Cluster")
    headless_without_selector = spec.get("clusterIP") == "None" and not spec.get("selector")
    if "ipFamilyPolicy" not in spec:
        spec["ipFamilyPolicy"] = "RequireDualStack" if headless_without_selector else "SingleStack"
    if "ipFamilies" not in spec:
        spec["ipFamilies"] = ["IPv4", "IPv6"] if headless_without_selector else ["IPv4"]
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _autoscaler(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is not None:
        up = behavior.setdefault("scaleUp", {})
        up.setdefault("stabilizationWindowSeconds", 0)
        _scaling_rules(up, [{"type": "Pods", "value": 4, "periodSeconds": 15}])
        _scaling_rules(behavior.setdefault("scaleDown", {}), [])
    status = obj.setdefault("status", {})
    status.setdefault("desiredReplicas", 0)
    status.setdefault("currentMetrics", None)


def _scaling_rules(rules: Manifest, more: list[Manifest]) -> None:
    rules.setdefault("selectPolicy", "Max")
    if "policies" not in rules:
        rules["policies"] = [*more, {"type": "Percent", "value": 100, "periodSeconds": 15}]


def _autoscaler_v1(obj: Manifest) -> None:
    _spec(obj).setdefault("minReplicas", 1)
    status = obj.setdefault("status", {})
    status.setdefault("currentReplicas", 0)
    status.setdefault("desiredReplicas", 0)


def _ingress(obj: Manifest) -> None:
    # Nothing but the path type has a default in networking.k8s.io/v1, and that one is required.
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _network_policy(obj: Manifest) -> None:
    spec = _spec(obj)
    for field in ("ingress", "egress"):
        for rule in spec.get(field) or ():
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _disruption_budget(obj: Manifest) -> None:
    status = obj.setdefault("status", {})
    for name in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"):
        status.setdefault(name, 0)


def _secret(obj: Manifest) -> None:
    if not obj.get("type"):
        obj["type"] = "Opaque"
    plain = obj.pop("stringData", None)
    if plain:
        encoded = {
            key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()
        }
        obj["data"] = {**(obj.get("data") or {}), **encoded}


def _namespace(obj: Manifest) -> None:
    metadata = obj.setdefault("metadata", {})
    name = metadata.get("name")
    if name:
        labels = metadata.setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = name
    spec = _spec(obj)
    if "finalizers" not in spec and not metadata.get("deletionTimestamp"):
        spec["finalizers"] = ["kubernetes"]
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _event(obj: Manifest) -> None:
    # Fields without `omitempty` in the Go struct: always printed.
    for name in ("source", "involvedObject"):
        obj.setdefault(name, {})
    for name in ("firstTimestamp", "lastTimestamp", "eventTime"):
        obj.setdefault(name, None)
    for name in ("reportingComponent", "reportingInstance"):
        obj.setdefault(name, "")


def _endpoint_slice(obj: Manifest) -> None:
    obj.setdefault("endpoints", None)
    ports = obj.setdefault("ports", None)
    for port in ports or ():
        port.setdefault("name", "")
        if not port.get("protocol"):
            port["protocol"] = "TCP"


def _endpoints(obj: Manifest) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _role_binding(obj: Manifest) -> None:
    reference = obj.setdefault("roleRef", {})
    if not reference.get("apiGroup"):
        reference["apiGroup"] = "rbac.authorization.k8s.io"
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("User", "Group") and not subject.get("apiGroup"):
            subject["apiGroup"] = "rbac.authorization.k8s.io"


def _role(obj: Manifest) -> None:
    obj.setdefault("rules", None)


def _claim(obj: Manifest) -> None:
    _spec(obj).setdefault("volumeMode", "Filesystem")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _volume(obj: Manifest) -> None:
    spec = _spec(obj)
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _crd(obj: Manifest) -> None:
    spec = _spec(obj)
    names = spec.setdefault("names", {})
    if not names.get("singular") and names.get("kind"):
        names["singular"] = names["kind"].lower()
    if not names.get("listKind") and names.get("kind"):
        names["listKind"] = names["kind"] + "List"
    conversion = spec.setdefault("conversion", {})
    conversion.setdefault("strategy", "None")
    status = obj.setdefault("status", {})
    status.setdefault("conditions", None)
    accepted = status.setdefault("acceptedNames", {})
    accepted.setdefault("plural", "")
    accepted.setdefault("kind", "")
    if not status.get("storedVersions"):
        status["storedVersions"] = [
            v["name"] for v in spec.get("versions") or () if v.get("storage")
        ]


def _webhooks(obj: Manifest) -> None:
    for webhook in obj.get("webhooks") or ():
        webhook.setdefault("failurePolicy", "Fail")
        webhook.setdefault("matchPolicy", "Equivalent")
        webhook.setdefault("namespaceSelector", {})
        webhook.setdefault("objectSelector", {})
        webhook.setdefault("timeoutSeconds", 10)
        service = webhook.get("clientConfig", {}).get("service")
        if service is not None:
            service.setdefault("port", 443)
        for rule in webhook.get("rules") or ():
            rule.setdefault("scope", "*")


def _mutating_webhooks(obj: Manifest) -> None:
    _webhooks(obj)
    for webhook in obj.get("webhooks") or ():
        webhook.setdefault("reinvocationPolicy", "Never")


KIND_DEFAULTS: dict[tuple[str, str, str], Callable[[Manifest], None]] = {
    ("apps", "v1", "Deployment"): _deployment,
    ("apps", "v1", "ReplicaSet"): _replica_set,
    ("apps", "v1", "DaemonSet"): _daemon_set,
    ("apps", "v1", "StatefulSet"): _stateful_set,
    ("batch", "v1", "Job"): _job,
    ("batch", "v1", "CronJob"): _cron_job,
    ("", "v1", "Pod"): _pod,
    ("", "v1", "PodTemplate"): _pod_template,
    ("", "v1", "Service"): _service,
    ("", "v1", "Secret"): _secret,
    ("", "v1", "Namespace"): _namespace,
    ("", "v1", "Event"): _event,
    ("", "v1", "Endpoints"): _endpoints,
    ("", "v1", "PersistentVolumeClaim"): _claim,
    ("", "v1", "PersistentVolume"): _volume,
    ("autoscaling", "v2", "HorizontalPodAutoscaler"): _autoscaler,
    ("autoscaling", "v1", "HorizontalPodAutoscaler"): _autoscaler_v1,
    ("networking.k8s.io", "v1", "Ingress"): _ingress,
    ("networking.k8s.io", "v1", "NetworkPolicy"): _network_policy,
    ("policy", "v1", "PodDisruptionBudget"): _disruption_budget,
    ("discovery.k8s.io", "v1", "EndpointSlice"): _endpoint_slice,
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"): _role_binding,
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"): _role_binding,
    ("rbac.authorization.k8s.io", "v1", "Role"): _role,
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"): _role,
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"): _crd,
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"): _mutating_webhooks,
}
