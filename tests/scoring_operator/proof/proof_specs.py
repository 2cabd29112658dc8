"""A table of ScoringModel specs that together use every field of the kind."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

_CANARY: Spec = {"modelURI": "https://models.example.com/faq/4/", "sha256": "1" * 64, "weight": 20}
_GATEWAY: Spec = {
    "parentRef": {"name": "public", "namespace": "infra", "sectionName": "https"},
    "hostname": "faq.example.com",
}
_ENV: list[Spec] = [
    {"name": "COLOUR", "value": "blue"},
    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
    {
        "name": "PLACE",
        "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}},
    },
]
_NODE_AFFINITY: Spec = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
        ]
    }
}
_POD_TERM: list[Spec] = [
    {
        "weight": 10,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "cache"}},
        },
    }
]
_PREFERRED: Spec = {"preferredDuringSchedulingIgnoredDuringExecution": _POD_TERM}

#: What is added to `{modelURI, framework}`, by what it is about.
SPECS: dict[str, Spec] = {
    "minimal": {},
    "digest": {"sha256": "0" * 64},
    "storage-secret": {"storage": {"secretName": "account", "sizeLimit": "20Gi"}},
    "workload-identity": {
        "storage": {"serviceAccountName": "faq-identity"},
        "automountServiceAccountToken": True,
    },
    "size-as-a-number": {"storage": {"sizeLimit": 1000000}},
    "trusted-pickle": {"trustPickle": True},
    "onnx": {"framework": "onnx", "precision": "float16"},
    "tensorflow": {"framework": "tensorflow"},
    "script": {"framework": "python", "env": _ENV},
    "gpu": {"framework": "pytorch", "device": "gpu", "precision": "bfloat16"},
    "gpu-slice": {
        "framework": "keras",
        "device": "gpu",
        "gpu": {"resourceName": "nvidia.com/mig-1g.10gb"},
        "rollout": {"strategy": "InPlace", "progressDeadlineSeconds": 3600},
    },
    "own-image": {
        "image": "registry.example.com/scorer@sha256:" + "a" * 64,
        "imagePullSecrets": [{"name": "registry"}, {"name": "other"}],
    },
    "resources": {
        "resources": {
            "requests": {"cpu": "250m", "memory": "1Gi"},
            "limits": {"cpu": 2, "memory": "3Gi", "ephemeral-storage": "30Gi"},
        }
    },
    "placed": {
        "nodeSelector": {"pool": "models"},
        "tolerations": [
            {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
            {"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
        ],
        "affinity": {
            "nodeAffinity": _NODE_AFFINITY,
            "podAffinity": _PREFERRED,
            "podAntiAffinity": _PREFERRED,
        },
        "priorityClassName": "important",
    },
    "pod-metadata": {
        "podMetadata": {"labels": {"team": "search"}, "annotations": {"cost/centre": "42"}}
    },
    "ca-from-config-map": {"caBundle": {"configMapName": "ca", "key": "bundle.pem"}},
    "ca-from-secret": {"caBundle": {"secretName": "ca"}},
    "signed": {"signatureKey": {"configMapName": "signing", "key": "cosign.pub"}},
    "signed-by-secret": {"signatureKey": {"secretName": "signing"}},
    "fixed-size": {"replicas": 3, "rollout": {"strategy": "Recreate"}},
    "stopped": {"replicas": 0},
    "scaled-by-cpu": {
        "autoscaling": {
            "minReplicas": 2,
            "maxReplicas": 10,
            "targetCPUUtilizationPercent": 60,
            "scaleDownDelaySeconds": 60,
        }
    },
    "scaled-by-requests": {"autoscaling": {"maxReplicas": 10, "targetInFlightRequests": 8}},
    "scaled-by-keda": {
        "autoscaling": {"autoscaler": "KEDA", "maxReplicas": 4, "targetInFlightRequests": 4}
    },
    "updated": {"updatePolicy": "Always"},
    "patient": {
        "probes": {"startupSeconds": 1200},
        "batching": {"maxSize": 8, "maxDelayMilliseconds": 5},
        "limits": {"requestBytes": 1000, "timeoutSeconds": 600, "queuedRequests": 10},
    },
    "tested": {"test": {"request": {"data": [[5.1, 3.5]]}, "expect": [0]}},
    "inside": {"exposure": "ClusterInternal", "auth": {"mode": "None"}},
    "own-keys": {"auth": {"mode": "APIKey", "secretName": "my-keys"}},
    "ingress-own-certificate": {
        "ingress": {
            "host": "faq.example.com",
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/limit-rps": "100"},
            "tls": {"secretName": "own-tls"},
        }
    },
    "ingress-issuer": {
        "ingress": {
            "host": "faq.example.com",
            "tls": {
                "issuerRef": {"name": "le", "kind": "Issuer", "group": "cert-manager.io"},
            },
        },
        "canary": _CANARY,
    },
    "gateway": {"gateway": _GATEWAY},
    "gateway-redirect": {"gateway": {**_GATEWAY, "httpSectionName": "http"}},
    "gateway-canary": {"gateway": _GATEWAY, "canary": _CANARY},
    "canary": {"canary": {**_CANARY, "weight": 0}, "replicas": 2},
}


def manifest(name: str = "faq", **spec: Any) -> dict[str, Any]:
    """A ScoringModel as a user writes it."""
    base: Spec = {"modelURI": "https://models.example.com/faq/3/", "framework": "sklearn"}
    return {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**base, **spec},
    }
