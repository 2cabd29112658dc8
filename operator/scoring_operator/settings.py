"""The operator's settings: read once from the environment, all problems reported together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TypeVar

from scoring_operator.api import Gateway, IssuerRef, Manifest
from scoring_operator.api.parse import FRAMEWORKS

T = TypeVar("T")

DEFAULT_IMAGE = "mlscoring/scorer:0.1.0"

# Both taints are in use on GPU node pools of AKS: `sku=gpu` in its how-to pages, `nvidia.com/gpu` in its best practices
# (https://learn.microsoft.com/azure/aks/use-nvidia-gpu, https://learn.microsoft.com/azure/aks/best-practices-gpu).
DEFAULT_GPU_TOLERATIONS: tuple[Manifest, ...] = (
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
)

NETWORK_POLICIES = ("None", "Ingress", "IngressAndEgress")

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kKMGTPE]i?)?", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)


class SettingsError(ValueError):
    """One or more settings cannot be used; the message lists all of them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a platform team decides once for all models.

    Args:
        images: scorer image by device (`cpu`, `gpu`), or by framework and device (`pytorch-gpu`), which wins.
        ingress_class: IngressClass of models that name none; None: the cluster's default class.
        base_domain: a model without a host gets `<name>.<namespace>.<base_domain>`; None: no URL.
        url_port: port of the public URL where it is not 443.
        ingress_controller: `spec.controller` of the IngressClass, for an operator that may not read IngressClasses.
        ingress_annotations: of every Ingress; those of a model win.
        gateway: Gateway of models that name neither an ingress nor a gateway; None: they get an Ingress.
        issuer: cert-manager issuer of models that name none; None: self-signed certificates.
        workload_identity: pods that name a ServiceAccount get the label that Azure workload identity asks for.
        network_policy: what NetworkPolicies limit: `None`, `Ingress` or `IngressAndEgress`.
        network_policy_from: who may score: namespaces of proxies, or address ranges of proxies outside the cluster.
        network_policy_metrics_from: who may read metrics, beside the operator.
        operator_namespace: where the operator itself runs; None outside a cluster.
        prometheus_url: where KEDA asks for requests in flight; None: it cannot.
        keda_authentication: ClusterTriggerAuthentication for that address; None: it needs none.
        install_requirements: the fetcher may install the packages that a model asks for.
        pip_index_url: where those packages come from; None: pip's own default, or what the storage's Secret says.
        model_cache_path: folder on the nodes that keeps models by digest; None: every pod downloads.
        gpu_tolerations: added to every pod of device gpu.
        requests: resources a pod asks for where the spec says nothing.
        limits: resources a pod may use where the spec says nothing.
        run_as_user: user and group id of the scorer's processes.
        pre_stop_seconds: how long a stopping pod goes on before it gets SIGTERM; covers the time until every proxy
            has heard that the endpoint is gone.
        drain_seconds: how long the scorer serves on after SIGTERM (its own default).
        certificate_days: validity of self-signed certificates; renewed after two thirds of it.
        workers: models that are reconciled at the same time.
        revision_history: old ReplicaSets to keep.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    ingress_class: str | None = None
    base_domain: str | None = None
    url_port: int = 443
    ingress_controller: str | None = None
    ingress_annotations: Mapping[str, str] = field(default_factory=dict)
    gateway: Gateway | None = None
    issuer: IssuerRef | None = None
    workload_identity: bool = False
    network_policy: str = "None"
    network_policy_from: tuple[str, ...] = ()
    network_policy_metrics_from: tuple[str, ...] = ()
    operator_namespace: str | None = None
    prometheus_url: str | None = None
    keda_authentication: str | None = None
    install_requirements: bool = False
    pip_index_url: str | None = None
    model_cache_path: str | None = None
    gpu_tolerations: tuple[Manifest, ...] = DEFAULT_GPU_TOLERATIONS
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "500m", "memory": "512Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"memory": "2Gi"})
    run_as_user: int = 10001
    pre_stop_seconds: int = 5
    drain_seconds: int = 5
    certificate_days: int = 90
    workers: int = 8
    revision_history: int = 5

    def image_for(self, *, device: str, framework: str) -> str:
        """The scorer image for a model that names none."""
        by_framework = self.images.get(f"{framework}-{device}")
        return by_framework or self.images.get(device) or DEFAULT_IMAGE

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings.

        Args:
            environ: environment variables; an empty value counts as absent.

        Raises:
            SettingsError: at least one variable has a value that cannot be used; names all of them.
        """
        reader = _Reader(environ)
        defaults = cls()
        settings = cls(
            images=_read_images(reader),
            ingress_class=reader.get("INGRESS_CLASS", str, None),
            base_domain=reader.get("BASE_DOMAIN", _domain, None),
            url_port=reader.get("URL_PORT", _number(1, 65535), defaults.url_port),
            ingress_controller=reader.get("INGRESS_CONTROLLER", str, None),
            ingress_annotations=reader.get("INGRESS_ANNOTATIONS", _annotations, {}),
            gateway=_read_gateway(reader),
            issuer=_read_issuer(reader),
            workload_identity=reader.get("AZURE_WORKLOAD_IDENTITY", _flag, False),
            network_policy=reader.get("NETWORK_POLICY", _choice(NETWORK_POLICIES), "None"),
            network_policy_from=reader.get("NETWORK_POLICY_FROM", _sources, ()),
            network_policy_metrics_from=reader.get("NETWORK_POLICY_METRICS_FROM", _sources, ()),
            operator_namespace=reader.get("POD_NAMESPACE", str, None),
            prometheus_url=reader.get("KEDA_PROMETHEUS_URL", _web_address, None),
            keda_authentication=reader.get("KEDA_TRIGGER_AUTHENTICATION", str, None),
            install_requirements=reader.get("INSTALL_REQUIREMENTS", _flag, False),
            pip_index_url=reader.get("PIP_INDEX_URL", _web_address, None),
            model_cache_path=reader.get("MODEL_CACHE_PATH", _absolute_path, None),
            gpu_tolerations=reader.get("GPU_TOLERATIONS", _tolerations, defaults.gpu_tolerations),
            requests=_read_amounts(reader, "REQUEST", defaults.requests),
            limits=_read_amounts(reader, "LIMIT", defaults.limits),
            run_as_user=reader.get("RUN_AS_USER", _number(1, 2**31 - 1), defaults.run_as_user),
            pre_stop_seconds=reader.get(
                "PRE_STOP_SECONDS", _number(0, 300), defaults.pre_stop_seconds
            ),
            drain_seconds=reader.get("DRAIN_SECONDS", _number(0, 300), defaults.drain_seconds),
            certificate_days=reader.get(
                "CERTIFICATE_DAYS", _number(1, 825), defaults.certificate_days
            ),
            workers=reader.get("WORKERS", _number(1, 256), defaults.workers),
            revision_history=reader.get(
                "REVISION_HISTORY", _number(0, 100), defaults.revision_history
            ),
        )
        if settings.network_policy != "None" and not settings.network_policy_from:
            reader.problems.append(
                "NETWORK_POLICY_FROM: is required with NETWORK_POLICY, or nobody could score"
            )
        if reader.problems:
            raise SettingsError("\n".join(reader.problems))
        return settings


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def get(self, name: str, convert: Callable[[str], T], default: T | None) -> T:
        text = self._environ.get(name, "").strip()
        if not text:
            return default  # type: ignore[return-value]  # the caller's default has the type it wants
        try:
            return convert(text)
        except ValueError as err:
            self.problems.append(f"{name}={text!r}: {err}")
            return default  # type: ignore[return-value]  # never used: problems are raised


def _read_images(reader: _Reader) -> dict[str, str]:
    images: dict[str, str] = {}
    everywhere = reader.get("SCORER_IMAGE", str, None)
    for name in ("cpu", "gpu"):
        image = reader.get(f"SCORER_IMAGE_{name.upper()}", str, everywhere)
        if image:
            images[name] = image
    for framework in FRAMEWORKS:
        # A framework's CPU image is of no use on a GPU, so each device has a variable of its own.
        for device, variable in (("cpu", framework), ("gpu", f"{framework}_gpu")):
            image = reader.get(f"SCORER_IMAGE_{variable.upper()}", str, None)
            if image:
                images[f"{framework}-{device}"] = image
    return images


def _read_issuer(reader: _Reader) -> IssuerRef | None:
    name = reader.get("ISSUER_NAME", str, None)
    kind = reader.get("ISSUER_KIND", str, "ClusterIssuer")
    group = reader.get("ISSUER_GROUP", str, "cert-manager.io")
    return IssuerRef(name, kind, group) if name else None


def _read_gateway(reader: _Reader) -> Gateway | None:
    name = reader.get("GATEWAY_NAME", str, None)
    section = reader.get("GATEWAY_SECTION", str, None)
    http_section = reader.get("GATEWAY_HTTP_SECTION", str, None)
    if http_section and not section:
        reader.problems.append(
            "GATEWAY_HTTP_SECTION: needs GATEWAY_SECTION, or the routes would answer plain HTTP too"
        )
    if name is None:
        return None
    namespace = reader.get("GATEWAY_NAMESPACE", str, None)
    return Gateway(name, namespace, section, None, http_section)


def _read_amounts(reader: _Reader, what: str, defaults: Mapping[str, str]) -> dict[str, str]:
    amounts = {
        resource: reader.get(
            f"DEFAULT_{resource.upper()}_{what}", _amount, defaults.get(resource, "")
        )
        for resource in ("cpu", "memory")
    }
    # "0" switches a default off.
    return {resource: amount for resource, amount in amounts.items() if amount not in ("", "0")}


def _number(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return convert


def _amount(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ValueError("must be a Kubernetes quantity, such as 500m or 2Gi")
    return text


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError("must be a DNS name in lower case, such as models.example.com")
    return text


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _choice(choices: tuple[str, ...]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return convert


def _sources(text: str) -> tuple[str, ...]:
    sources = tuple(part.strip() for part in text.split(",") if part.strip())
    for source in sources:
        if "/" in source:
            ip_network(source)  # says itself what is wrong
        elif not _NAMESPACE.fullmatch(source):
            raise ValueError(
                "must be namespaces or address ranges with commas between them, such as "
                "ingress-system,10.0.1.0/24"
            )
    return sources


def _web_address(text: str) -> str:
    if not re.match(r"https?://[^/@]+", text):
        raise ValueError("must be an http: or https: address without credentials")
    return text


def _absolute_path(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or text.strip("/") == "":
        raise ValueError("must be an absolute path of a folder for this purpose alone")
    return text


def _annotations(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ValueError(f"must be a JSON object of strings ({err})") from err
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("must be a JSON object of strings")
    if any("snippet" in name for name in value):
        raise ValueError("must not hold snippets, which inject configuration into a shared proxy")
    return value


def _tolerations(text: str) -> tuple[Manifest, ...]:
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ValueError(f"must be a JSON list of tolerations ({err})") from err
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("must be a JSON list of tolerations")
    return tuple(value)
