"""The closed list of reasons."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition is as it is; docs/reasons.md has a section for each."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    SCALED_TO_ZERO = "ScaledToZero"

    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    FORBIDDEN = "Forbidden"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REJECTED = "PodRejected"

    UNSCHEDULABLE = "Unschedulable"
    NO_GPU = "NoGPU"
    IMAGE_PULL = "ImagePull"
    CONFIG_MISSING = "ConfigMissing"

    MODEL_DOWNLOADING = "ModelDownloading"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_FORBIDDEN = "ModelForbidden"
    MODEL_UNREACHABLE = "ModelUnreachable"
    DIGEST_MISMATCH = "DigestMismatch"
    SIGNATURE_INVALID = "SignatureInvalid"
    DISK_FULL = "DiskFull"

    MODEL_LOADING = "ModelLoading"
    UNSAFE_PICKLE = "UnsafePickle"
    VERSION_MISMATCH = "VersionMismatch"
    MISSING_DEPENDENCY = "MissingDependency"
    LOAD_FAILED = "LoadFailed"
    SCRIPT_FAILED = "ScriptFailed"
    SAMPLE_FAILED = "SampleFailed"
    PROBE_TIMEOUT = "ProbeTimeout"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    ROLLOUT_STUCK = "RolloutStuck"

    INGRESS_PENDING = "IngressPending"
    ROUTE_REJECTED = "RouteRejected"
    CLUSTER_INTERNAL = "ClusterInternal"
    CERTIFICATE_PENDING = "CertificatePending"
    CERTIFICATE_INVALID = "CertificateInvalid"
    SELF_SIGNED = "SelfSigned"
    ISSUED = "Issued"
    PROVIDED = "Provided"
    PROXY_REDIRECTS = "ProxyRedirects"
    SCORER_REDIRECTS = "ScorerRedirects"
    METRICS_MISSING = "MetricsMissing"
    KEDA_MISSING = "KEDAMissing"
    CANARY_UNSUPPORTED = "CanaryUnsupported"


#: What the scorer and the fetcher may say in their termination messages.
TERMINATION_REASONS = frozenset(
    {
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_FORBIDDEN,
        Reason.MODEL_UNREACHABLE,
        Reason.DIGEST_MISMATCH,
        Reason.SIGNATURE_INVALID,
        Reason.DISK_FULL,
        Reason.UNSAFE_PICKLE,
        Reason.VERSION_MISMATCH,
        Reason.MISSING_DEPENDENCY,
        Reason.LOAD_FAILED,
        Reason.SCRIPT_FAILED,
        Reason.SAMPLE_FAILED,
        Reason.OUT_OF_MEMORY,
        Reason.NO_GPU,
        Reason.INVALID_SPEC,
    }
)
