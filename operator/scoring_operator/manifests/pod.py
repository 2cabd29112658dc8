"""The pod template: fetch, then serve, under the restricted Pod Security Standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from scoring_operator.api import Canary, FileSource, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.environment import (
    CA_DIR,
    CACHE_DIR,
    KEYS_DIR,
    MODEL_DIR,
    SIGNATURE_DIR,
    SOURCE_DIR,
    fetch_environment,
    pin_variable,
    serve_environment,
)
from scoring_operator.manifests.resources import build_resources
from scoring_operator.settings import Settings

# A pod is asked for its state this often while it starts; the answer costs a small GET on the probe port.
_STARTUP_PERIOD_SECONDS = 2
# What a stopping pod may take beyond its longest request: closing connections, flushing logs.
_STOP_MARGIN_SECONDS = 10


def build_pod_template(
    model: ScoringModel, settings: Settings, *, revision: str, canary: Canary | None = None
) -> Manifest:
    """The pod template.

    Args:
        model: the ScoringModel.
        settings: the operator's settings.
        revision: shown in a label and to the scorer.
        canary: given for the canary's pods.
    """
    is_canary = canary is not None
    # Labels of the user first: ours win, so that a selector can never be broken by them.
    labels = {**model.pod_labels, **names.labels(model), **names.selector(model, canary=is_canary)}
    labels[names.REVISION_LABEL] = revision
    if settings.workload_identity and model.storage.service_account_name:
        labels["azure.workload.identity/use"] = "true"
    # Nothing in the pod's volumes is worth a node: all of it is fetched again elsewhere.
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
    annotations.update(model.pod_annotations)
    metadata: Manifest = {"labels": labels, "annotations": annotations}

    spec: Manifest = {
        "serviceAccountName": names.service_account_name(model),
        "automountServiceAccountToken": model.automount_service_account_token,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.pre_stop_seconds
        + settings.drain_seconds
        + model.limits.timeout_seconds
        + _STOP_MARGIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            "fsGroup": settings.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_fetch_container(model, settings, canary, revision)],
        "containers": [_scorer_container(model, settings, canary, revision)],
        "volumes": _volumes(model, settings, canary),
        "topologySpreadConstraints": _spread(model, is_canary),
    }
    if model.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in model.image_pull_secrets]
    if model.node_selector:
        spec["nodeSelector"] = dict(model.node_selector)
    tolerations = [dict(t) for t in model.tolerations]
    if model.device == "gpu":
        tolerations += [dict(t) for t in settings.gpu_tolerations if t not in tolerations]
    if tolerations:
        spec["tolerations"] = tolerations
    if model.affinity:
        spec["affinity"] = dict(model.affinity)
    if model.priority_class_name:
        spec["priorityClassName"] = model.priority_class_name
    return {"metadata": metadata, "spec": spec}


def _fetch_container(
    model: ScoringModel, settings: Settings, canary: Canary | None, revision: str
) -> Manifest:
    container = _container(model, settings, "fetch")
    container["env"] = fetch_environment(model, canary)
    if not (canary or model).sha256:
        container["env"].append(pin_variable(model, revision))
    # Storage credentials are for the fetcher alone: the model's code never sees them.
    if model.storage.secret_name:
        container["envFrom"] = [{"secretRef": {"name": model.storage.secret_name}}]
    # The scheduler takes the larger of init and main container, so equal amounts cost nothing; a GPU is not needed here.
    container["resources"] = build_resources(model, settings, gpu=False)
    container["volumeMounts"] = [
        {"name": "model", "mountPath": MODEL_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
        *_ca_mounts(model),
    ]
    if model.signature_key:
        signature = {"name": "signature", "mountPath": SIGNATURE_DIR, "readOnly": True}
        container["volumeMounts"].append(signature)
    # Written either way: `env` wins over `envFrom`, so that no storage Secret can switch it on.
    allowed = "true" if settings.install_requirements else "false"
    container["env"].append({"name": "SCORER_INSTALL_REQUIREMENTS", "value": allowed})
    if settings.install_requirements and settings.pip_index_url:
        container["env"].append({"name": "SCORER_PIP_INDEX_URL", "value": settings.pip_index_url})
    if _source(model, canary):
        container["env"].append({"name": "SCORER_SOURCE_DIR", "value": SOURCE_DIR})
        source = {"name": "source", "mountPath": SOURCE_DIR, "readOnly": True}
        container["volumeMounts"].append(source)
    if settings.model_cache_path:
        container["env"].append({"name": "SCORER_CACHE_DIR", "value": CACHE_DIR})
        container["volumeMounts"].append({"name": "cache", "mountPath": CACHE_DIR})
    return container


def _source(model: ScoringModel, canary: Canary | None) -> Manifest | None:
    """The volume behind a model URI that names one; None for URIs that are fetched over the network."""
    uri = (canary or model).model_uri
    scheme, _, rest = uri.partition(":")
    target = rest.lstrip("/")
    if scheme == "pvc":
        claim = {"claimName": target.partition("/")[0], "readOnly": True}
        return {"name": "source", "persistentVolumeClaim": claim}
    if scheme == "oci":
        image = {"reference": target, "pullPolicy": "IfNotPresent"}
        return {"name": "source", "image": image}
    return None


def _scorer_container(
    model: ScoringModel, settings: Settings, canary: Canary | None, revision: str
) -> Manifest:
    container = _container(model, settings, "scorer")
    container["args"] = ["serve"]
    container["env"] = serve_environment(
        model, canary, revision=revision, drain_seconds=settings.drain_seconds
    )
    container["resources"] = build_resources(model, settings, gpu=True)
    container["ports"] = [
        {"name": "http", "containerPort": names.HTTP_PORT, "protocol": "TCP"},
        {"name": "probes", "containerPort": names.PROBE_PORT, "protocol": "TCP"},
    ]
    container["startupProbe"] = {
        **_probe("/startupz", period=_STARTUP_PERIOD_SECONDS),
        "failureThreshold": max(1, -(-model.startup_seconds // _STARTUP_PERIOD_SECONDS)),
    }
    container["readinessProbe"] = {**_probe("/readyz", period=5), "failureThreshold": 2}
    # Health answers from its own thread while the model is busy, so 60 s of silence mean a hung process.
    container["livenessProbe"] = {**_probe("/livez", period=10), "failureThreshold": 6}
    if settings.pre_stop_seconds:
        # Sleeping in the kubelet needs no shell in the image (stable since Kubernetes 1.34).
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": settings.pre_stop_seconds}}}
    container["volumeMounts"] = [
        {"name": "model", "mountPath": MODEL_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        *_keys_mounts(model),
        *_ca_mounts(model),
    ]
    return container


def _container(model: ScoringModel, settings: Settings, name: str) -> Manifest:
    image = model.image or settings.image_for(device=model.device, framework=model.framework)
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [name],
        "terminationMessagePath": "/dev/termination-log",
        # Without a message the last log lines say why; our own message wins over them.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probe(path: str, *, period: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "probes", "scheme": "HTTP"},
        "periodSeconds": period,
        # The kubelet's default of 1 s is short for a node under load.
        "timeoutSeconds": 3,
    }


def _volumes(model: ScoringModel, settings: Settings, canary: Canary | None) -> list[Manifest]:
    size = {"sizeLimit": model.storage.size_limit} if model.storage.size_limit else {}
    volumes: list[Manifest] = [
        {"name": "model", "emptyDir": size},
        {"name": "tmp", "emptyDir": {}},
    ]
    secret = names.keys_secret_name(model)
    if secret:
        volumes.append({"name": "keys", "secret": {"secretName": secret, "defaultMode": 0o440}})
    if model.ca_bundle:
        volumes.append({"name": "ca", **_file_volume(model.ca_bundle)})
    if model.signature_key:
        volumes.append({"name": "signature", **_file_volume(model.signature_key)})
    if volume := _source(model, canary):
        volumes.append(volume)
    if settings.model_cache_path:
        path = {"path": settings.model_cache_path, "type": "DirectoryOrCreate"}
        volumes.append({"name": "cache", "hostPath": path})
    return volumes


def _file_volume(source: FileSource) -> Manifest:
    if source.config_map_name:
        return {"configMap": {"name": source.config_map_name, "defaultMode": 0o444}}
    return {"secret": {"secretName": source.secret_name, "defaultMode": 0o444}}


def _keys_mounts(model: ScoringModel) -> list[Manifest]:
    if model.auth.mode != "APIKey":
        return []
    return [{"name": "keys", "mountPath": KEYS_DIR, "readOnly": True}]


def _ca_mounts(model: ScoringModel) -> list[Manifest]:
    if model.ca_bundle is None:
        return []
    return [{"name": "ca", "mountPath": CA_DIR, "readOnly": True}]


def _spread(model: ScoringModel, is_canary: bool) -> list[Manifest]:
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            # Better two pods on one node than one pod.
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names.selector(model, canary=is_canary)},
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]
