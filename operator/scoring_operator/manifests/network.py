"""The NetworkPolicy: who may reach a model's pods, and what they may reach; only where the operator's settings ask for it.

The kubelet's probes need no rule: traffic from a pod's own node is always allowed
(https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from __future__ import annotations

from collections.abc import Iterable

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.settings import Settings


def build_network_policy(model: ScoringModel, settings: Settings) -> Manifest:
    """The policy of a model's pods and its canary's.

    Args:
        model: the ScoringModel.
        settings: who may score and who may read metrics.
    """
    # Without a proxy in front, everybody in the cluster is a client, and the API key decides.
    inside = model.exposure == "ClusterInternal"
    scoring = [{"namespaceSelector": {}}] if inside else _peers(settings.network_policy_from)
    own = (settings.operator_namespace,) if settings.operator_namespace else ()
    watching = _peers((*own, *settings.network_policy_metrics_from))
    ingress = [{"from": scoring, "ports": [_port("http")]}]
    if watching:
        # Metrics, and the progress of a download, which the operator asks for.
        ingress.append({"from": watching, "ports": [_port(names.PROBE_PORT)]})
    spec: Manifest = {
        "podSelector": {"matchLabels": names.labels(model)},
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    }
    if settings.network_policy == "IngressAndEgress":
        spec["policyTypes"] = ["Ingress", "Egress"]
        # Names, and the HTTPS that model stores and identity providers are reached by; to anywhere, because
        # neither has addresses that can be known here.
        spec["egress"] = [{"ports": [_port(53, "UDP"), _port(53)]}, {"ports": [_port(443)]}]
    return names.child(Kinds.NETWORK_POLICY, model, model.name, spec=spec)


def _port(port: int | str, protocol: str = "TCP") -> Manifest:
    return {"port": port, "protocol": protocol}


def _peers(sources: Iterable[str]) -> list[Manifest]:
    """Namespaces by name, and address ranges."""
    return [
        {"ipBlock": {"cidr": source}}
        if "/" in source
        else {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": source}}}
        for source in dict.fromkeys(sources)
    ]
