"""The typed ScoringModel, field by field as in the custom resource definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scoring_operator.api.objects import Manifest


class Key(NamedTuple):
    """What the queue holds: which ScoringModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Storage:
    """How the pod reaches the model."""

    secret_name: str | None = None
    service_account_name: str | None = None
    size_limit: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file out of a ConfigMap or a Secret; exactly one of the two names is given."""

    config_map_name: str | None
    secret_name: str | None
    key: str


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Bounds and targets of the autoscaler, which is a HorizontalPodAutoscaler (`HPA`) or KEDA's."""

    min_replicas: int
    max_replicas: int
    target_cpu_utilization_percent: int | None
    target_in_flight_requests: int | None
    scale_down_delay_seconds: int
    autoscaler: str = "HPA"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new revision replaces the old one: `Surge`, `InPlace` or `Recreate`."""

    strategy: str = "Surge"
    progress_deadline_seconds: int = 1200


@dataclass(frozen=True, slots=True)
class Batching:
    """How waiting requests are scored together."""

    max_size: int = 32
    max_delay_milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of a pod."""

    request_bytes: int = 10485760
    timeout_seconds: int = 60
    queued_requests: int = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that a new pod must answer, and the answer where one is given."""

    request: Any
    expect: Any
    has_expectation: bool


@dataclass(frozen=True, slots=True)
class IssuerRef:
    """A complete reference to a cert-manager issuer."""

    name: str
    kind: str = "ClusterIssuer"
    group: str = "cert-manager.io"


@dataclass(frozen=True, slots=True)
class Ingress:
    """HTTPS through an ingress controller."""

    host: str | None = None
    class_name: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    tls_secret_name: str | None = None
    issuer: IssuerRef | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """HTTPS through a Gateway of the platform team."""

    name: str
    namespace: str | None
    section_name: str | None
    hostname: str | None
    http_section_name: str | None = None


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may score: `APIKey` or `None`."""

    mode: str = "APIKey"
    secret_name: str | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """A second model with a share of the requests, in percent."""

    model_uri: str
    sha256: str | None
    weight: int


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """A parsed ScoringModel: identity first, then the spec."""

    name: str
    namespace: str
    uid: str
    generation: int
    model_uri: str
    framework: str
    device: str = "cpu"
    sha256: str | None = None
    storage: Storage = Storage()
    update_policy: str = "Pinned"
    trust_pickle: bool = False
    precision: str = "float32"
    gpu_resource_name: str = "nvidia.com/gpu"
    image: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    env: tuple[Manifest, ...] = ()
    resource_requests: dict[str, str] = field(default_factory=dict)
    resource_limits: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Manifest, ...] = ()
    affinity: Manifest = field(default_factory=dict)
    priority_class_name: str | None = None
    automount_service_account_token: bool = False
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)
    ca_bundle: FileSource | None = None
    signature_key: FileSource | None = None
    replicas: int = 1
    autoscaling: Autoscaling | None = None
    rollout: Rollout = Rollout()
    startup_seconds: int = 600
    batching: Batching = Batching()
    limits: Limits = Limits()
    test: Sample | None = None
    exposure: str = "External"
    ingress: Ingress | None = None
    gateway: Gateway | None = None
    auth: Auth = Auth()
    canary: Canary | None = None
    #: The value of the annotation that asks for new pods; not of the spec, because it wishes for nothing else.
    rollout_mark: str = ""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.namespace, self.name)
