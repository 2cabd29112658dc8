"""From the stored object to the typed ScoringModel; a wrong field is named by its path.

The API server has validated and defaulted the object already. What is checked again here is what this program's own
correctness rests on, because a stored object may be older than the rules of the installed CRD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scoring_operator.api.model import (
    Auth,
    Autoscaling,
    Batching,
    Canary,
    FileSource,
    Gateway,
    Ingress,
    IssuerRef,
    Limits,
    Rollout,
    Sample,
    ScoringModel,
    Storage,
)
from scoring_operator.api.objects import Manifest

FRAMEWORKS = ("sklearn", "pytorch", "tensorflow", "keras", "onnx", "python")
DEVICES = ("cpu", "gpu")
STRATEGIES = ("Surge", "InPlace", "Recreate")
UPDATE_POLICIES = ("Pinned", "Always")
AUTOSCALERS = ("HPA", "KEDA")
#: On a ScoringModel: each other value asks for another rollout.
ROLLOUT_ANNOTATION = "mlscoring.io/rollout"

_HOST = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+", re.ASCII
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:.+", re.ASCII)


class SpecError(ValueError):
    """A field of the spec that cannot be used.

    Args:
        path: the field, such as `spec.autoscaling.minReplicas`.
        reason: what is wrong with its value, and what would be right.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class _Fields:
    """Typed access to one object of the spec that knows its own path."""

    def __init__(self, data: Any, path: str) -> None:
        if not isinstance(data, Mapping):
            raise SpecError(path, f"must be an object, got {type(data).__name__}")
        self._data = data
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def at(self, name: str) -> str:
        return f"{self._path}.{name}"

    def raw(self, name: str) -> Any:
        return self._data.get(name)

    def child(self, name: str) -> _Fields:
        return _Fields(self._data.get(name) or {}, self.at(name))

    def optional_child(self, name: str) -> _Fields | None:
        return self.child(name) if name in self else None

    def text(self, name: str, default: str = "") -> str:
        value = self._data.get(name)
        if value is None:
            if not default:
                raise SpecError(self.at(name), "is required")
            return default
        if not isinstance(value, str) or not value:
            raise SpecError(self.at(name), f"must be a non-empty string, got {value!r}")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self else None

    def choice(self, name: str, choices: tuple[str, ...], default: str = "") -> str:
        value = self.text(name, default)
        if value not in choices:
            raise SpecError(self.at(name), f"must be one of {', '.join(choices)}, got {value!r}")
        return value

    def number(self, name: str, default: int | None, *, minimum: int = 0) -> int:
        value = self._data.get(name)
        if value is None:
            if default is None:
                raise SpecError(self.at(name), "is required")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise SpecError(self.at(name), f"must be a whole number, got {value!r}")
        if value < minimum:
            raise SpecError(self.at(name), f"must be >= {minimum}, got {value}")
        return value

    def optional_number(self, name: str, *, minimum: int = 0) -> int | None:
        return self.number(name, None, minimum=minimum) if name in self else None

    def flag(self, name: str) -> bool:
        value = self._data.get(name, False)
        if not isinstance(value, bool):
            raise SpecError(self.at(name), f"must be true or false, got {value!r}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """A map of strings; numbers become strings, as quantities may be written either way."""
        return {str(k): str(v) for k, v in self.mapping(name).items()}

    def mapping(self, name: str) -> Manifest:
        value = self._data.get(name) or {}
        if not isinstance(value, Mapping):
            raise SpecError(self.at(name), "must be an object")
        return dict(value)

    def objects(self, name: str) -> tuple[Manifest, ...]:
        value = self._data.get(name) or ()
        if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
            raise SpecError(self.at(name), "must be a list of objects")
        return tuple(dict(v) for v in value)

    def host(self, name: str) -> str | None:
        value = self.optional_text(name)
        if value is not None and not _HOST.fullmatch(value):
            raise SpecError(self.at(name), f"must be a DNS name in lower case, got {value!r}")
        return value

    def uri(self, name: str) -> str:
        value = self.text(name)
        if not _SCHEME.fullmatch(value):
            raise SpecError(self.at(name), "must begin with a scheme, such as https: or file:")
        return value


def parse_scoring_model(manifest: Manifest) -> ScoringModel:
    """Read a ScoringModel as the API server stores it.

    Args:
        manifest: the whole object, metadata included.

    Returns:
        The typed model; absent fields have the defaults of the CRD.

    Raises:
        SpecError: a field is missing or has a value that cannot be used.
    """
    metadata = manifest["metadata"]
    spec = _Fields(manifest.get("spec"), "spec")
    resources = spec.child("resources")
    pod_metadata = spec.child("podMetadata")
    autoscaling = _parse_autoscaling(spec)
    if autoscaling and "replicas" in spec:
        raise SpecError("spec.replicas", "excludes spec.autoscaling; remove one of them")
    gateway = _parse_gateway(spec)
    ingress = _parse_ingress(spec)
    if gateway and ingress:
        raise SpecError("spec.ingress", "excludes spec.gateway; remove one of them")
    return ScoringModel(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        model_uri=spec.uri("modelURI"),
        framework=spec.choice("framework", FRAMEWORKS),
        device=spec.choice("device", DEVICES, "cpu"),
        sha256=spec.optional_text("sha256"),
        storage=_parse_storage(spec.child("storage")),
        update_policy=spec.choice("updatePolicy", UPDATE_POLICIES, "Pinned"),
        trust_pickle=spec.flag("trustPickle"),
        precision=spec.choice("precision", ("float32", "bfloat16", "float16"), "float32"),
        gpu_resource_name=spec.child("gpu").text("resourceName", "nvidia.com/gpu"),
        image=spec.optional_text("image"),
        image_pull_secrets=tuple(s["name"] for s in spec.objects("imagePullSecrets")),
        env=spec.objects("env"),
        resource_requests=resources.texts("requests"),
        resource_limits=resources.texts("limits"),
        node_selector=spec.texts("nodeSelector"),
        tolerations=spec.objects("tolerations"),
        affinity=spec.mapping("affinity"),
        priority_class_name=spec.optional_text("priorityClassName"),
        automount_service_account_token=spec.flag("automountServiceAccountToken"),
        pod_labels=pod_metadata.texts("labels"),
        pod_annotations=pod_metadata.texts("annotations"),
        ca_bundle=_parse_file_source(spec, "caBundle", "ca.crt"),
        signature_key=_parse_file_source(spec, "signatureKey", "public.pem"),
        replicas=spec.number("replicas", 1),
        autoscaling=autoscaling,
        rollout=_parse_rollout(spec.child("rollout")),
        startup_seconds=spec.child("probes").number("startupSeconds", 600, minimum=1),
        batching=_parse_batching(spec.child("batching")),
        limits=_parse_limits(spec.child("limits")),
        test=_parse_sample(spec),
        exposure=spec.choice("exposure", ("External", "ClusterInternal"), "External"),
        ingress=ingress,
        gateway=gateway,
        auth=_parse_auth(spec.child("auth")),
        canary=_parse_canary(spec),
        rollout_mark=str((metadata.get("annotations") or {}).get(ROLLOUT_ANNOTATION, "")),
    )


def _parse_storage(fields: _Fields) -> Storage:
    size_limit = fields.raw("sizeLimit")
    return Storage(
        secret_name=fields.optional_text("secretName"),
        service_account_name=fields.optional_text("serviceAccountName"),
        size_limit=None if size_limit is None else str(size_limit),
    )


def _parse_file_source(spec: _Fields, name: str, default_key: str) -> FileSource | None:
    fields = spec.optional_child(name)
    if fields is None:
        return None
    if ("configMapName" in fields) == ("secretName" in fields):
        raise SpecError(spec.at(name), "needs exactly one of configMapName and secretName")
    return FileSource(
        config_map_name=fields.optional_text("configMapName"),
        secret_name=fields.optional_text("secretName"),
        key=fields.text("key", default_key),
    )


def _parse_autoscaling(spec: _Fields) -> Autoscaling | None:
    fields = spec.optional_child("autoscaling")
    if fields is None:
        return None
    minimum = fields.number("minReplicas", 1, minimum=1)
    maximum = fields.number("maxReplicas", None, minimum=1)
    if minimum > maximum:
        raise SpecError(
            fields.at("minReplicas"),
            f"must not be greater than maxReplicas, got {minimum} > {maximum}",
        )
    return Autoscaling(
        min_replicas=minimum,
        max_replicas=maximum,
        target_cpu_utilization_percent=fields.optional_number(
            "targetCPUUtilizationPercent", minimum=1
        ),
        target_in_flight_requests=fields.optional_number("targetInFlightRequests", minimum=1),
        scale_down_delay_seconds=fields.number("scaleDownDelaySeconds", 300),
        autoscaler=fields.choice("autoscaler", AUTOSCALERS, "HPA"),
    )


def _parse_rollout(fields: _Fields) -> Rollout:
    return Rollout(
        strategy=fields.choice("strategy", STRATEGIES, "Surge"),
        progress_deadline_seconds=fields.number("progressDeadlineSeconds", 1200, minimum=1),
    )


def _parse_batching(fields: _Fields) -> Batching:
    return Batching(
        max_size=fields.number("maxSize", 32, minimum=1),
        max_delay_milliseconds=fields.number("maxDelayMilliseconds", 0),
    )


def _parse_limits(fields: _Fields) -> Limits:
    return Limits(
        request_bytes=fields.number("requestBytes", 10485760, minimum=1),
        timeout_seconds=fields.number("timeoutSeconds", 60, minimum=1),
        queued_requests=fields.number("queuedRequests", 256, minimum=1),
    )


def _parse_sample(spec: _Fields) -> Sample | None:
    raw = spec.raw("test")
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or "request" not in raw:
        raise SpecError("spec.test.request", "is required")
    return Sample(raw["request"], raw.get("expect"), has_expectation="expect" in raw)


def _parse_ingress(spec: _Fields) -> Ingress | None:
    fields = spec.optional_child("ingress")
    if fields is None:
        return None
    tls = fields.child("tls")
    issuer = _parse_issuer(tls)
    secret_name = tls.optional_text("secretName")
    if issuer and secret_name:
        raise SpecError("spec.ingress.tls.secretName", "excludes issuerRef; remove one of them")
    return Ingress(
        host=fields.host("host"),
        class_name=fields.optional_text("className"),
        annotations=fields.texts("annotations"),
        tls_secret_name=secret_name,
        issuer=issuer,
    )


def _parse_issuer(tls: _Fields) -> IssuerRef | None:
    fields = tls.optional_child("issuerRef")
    if fields is None:
        return None
    return IssuerRef(
        name=fields.text("name"),
        kind=fields.text("kind", "ClusterIssuer"),
        group=fields.text("group", "cert-manager.io"),
    )


def _parse_gateway(spec: _Fields) -> Gateway | None:
    fields = spec.optional_child("gateway")
    if fields is None:
        return None
    parent = fields.child("parentRef")
    return Gateway(
        name=parent.text("name"),
        namespace=parent.optional_text("namespace"),
        section_name=parent.optional_text("sectionName"),
        hostname=fields.host("hostname"),
        http_section_name=fields.optional_text("httpSectionName"),
    )


def _parse_auth(fields: _Fields) -> Auth:
    return Auth(
        mode=fields.choice("mode", ("APIKey", "None"), "APIKey"),
        secret_name=fields.optional_text("secretName"),
    )


def _parse_canary(spec: _Fields) -> Canary | None:
    fields = spec.optional_child("canary")
    if fields is None:
        return None
    weight = fields.number("weight", None)
    if weight > 100:
        raise SpecError(fields.at("weight"), f"must be <= 100, got {weight}")
    return Canary(fields.uri("modelURI"), fields.optional_text("sha256"), weight)
