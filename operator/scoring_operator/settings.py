"""The operator's settings: read once from the environment, all problems reported together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from scoring_operator.api import IssuerRef, Manifest
from scoring_operator.api.parse import FRAMEWORKS

T = TypeVar("T")

DEFAULT_IMAGE = "mlscoring/scorer:0.1.0"

# Both taints are in use on GPU node pools of AKS: `sku=gpu` in its how-to pages, `nvidia.com/gpu` in its best practices
# (https://learn.microsoft.com/azure/aks/use-nvidia-gpu, https://learn.microsoft.com/azure/aks/best-practices-gpu).
DEFAULT_GPU_TOLERATIONS: tuple[Manifest, ...] = (
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
)

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kKMGTPE]i?)?", re.ASCII)
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)


class SettingsError(ValueError):
    """One or more settings cannot be used; the message lists all of them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a platform team decides once for all models.

    Args:
        images: scorer image by device (`cpu`, `gpu`) or framework; a framework's entry wins.
        ingress_class: IngressClass of models that name none; None: the cluster's default class.
        base_domain: a model without a host gets `<name>.<namespace>.<base_domain>`; None: no URL.
        url_port: port of the public URL where it is not 443.
        issuer: cert-manager issuer of models that name none; None: self-signed certificates.
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
    issuer: IssuerRef | None = None
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
        return self.images.get(framework) or self.images.get(device) or DEFAULT_IMAGE

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
            issuer=_read_issuer(reader),
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
    for name in FRAMEWORKS:
        image = reader.get(f"SCORER_IMAGE_{name.upper()}", str, None)
        if image:
            images[name] = image
    return images


def _read_issuer(reader: _Reader) -> IssuerRef | None:
    name = reader.get("ISSUER_NAME", str, None)
    kind = reader.get("ISSUER_KIND", str, "ClusterIssuer")
    group = reader.get("ISSUER_GROUP", str, "cert-manager.io")
    return IssuerRef(name, kind, group) if name else None


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


def _tolerations(text: str) -> tuple[Manifest, ...]:
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ValueError(f"must be a JSON list of tolerations ({err})") from err
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("must be a JSON list of tolerations")
    return tuple(value)
