"""Evictions: a delete of a pod that respects PodDisruptionBudgets."""

from __future__ import annotations

import math
from decimal import Decimal

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.deletion import Deletions, parse_delete_options
from local_cluster.apiserver.errors import ApiError, not_found, too_many_requests
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.selectors import build_label_predicate
from local_cluster.apiserver.storage import Entry

PDB_KEY = "policy/poddisruptionbudgets"


def is_ready(pod: Manifest) -> bool:
    """Tell whether a pod counts as healthy."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) and not pod[
        "metadata"
    ].get("deletionTimestamp")


def _scaled(value: int | str, total: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(Decimal(value[:-1]) * total / 100)
    return int(value)


def derive_budget(budget: Manifest, pods: list[Manifest]) -> tuple[int, int]:
    """Derive how many pods must be healthy and how many are.

    Args:
        budget: the PodDisruptionBudget.
        pods: those that it selects.

    Returns:
        Healthy pods wanted, healthy pods found.
    """
    spec, status = budget.get("spec") or {}, budget.get("status") or {}
    healthy = sum(1 for pod in pods if is_ready(pod))
    if status.get("observedGeneration") == budget["metadata"].get("generation"):
        # A controller keeps the budget: it knows how many pods there should be.
        return int(status.get("desiredHealthy", 0)), healthy
    total = len(pods)
    if "minAvailable" in spec:
        return _scaled(spec["minAvailable"], total), healthy
    return max(0, total - _scaled(spec.get("maxUnavailable", 1), total)), healthy


class Evictions:
    """Evicts pods."""

    def __init__(self, cluster: Cluster, objects: Objects, deletions: Deletions) -> None:
        self._cluster = cluster
        self._objects = objects
        self._deletions = deletions

    def evict(self, request: ResourceRequest, body: Manifest) -> None:
        """Delete a pod if its budget allows.

        Args:
            request: names the pod.
            body: the Eviction.

        Raises:
            ApiError: 404; 429, the budget does not allow it now; 500 in the words of the real server, when more
                than one budget selects the pod.
        """
        entry = self._objects.get(request.resource, request.namespace, request.name)
        pod = entry.obj
        options = parse_delete_options(body.get("deleteOptions") or {}, dict(request.query))
        phase = (pod.get("status") or {}).get("phase")
        if phase not in {"Succeeded", "Failed", "Pending"} and not pod["metadata"].get(
            "deletionTimestamp"
        ):
            budgets = self._budgets(pod)
            if len(budgets) > 1:
                text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                raise ApiError(500, "InternalError", text)
            if budgets:
                self._spend(budgets[0], pod, dry_run=options.dry_run)
        if self._cluster.store.get("/pods", request.namespace, request.name) is None:
            raise not_found(request.resource, request.name)
        self._deletions.delete(request.resource, request.namespace, request.name, options)

    def _budgets(self, pod: Manifest) -> list[Entry]:
        labels = pod["metadata"].get("labels") or {}
        return [
            entry
            for entry in self._cluster.store.entries(PDB_KEY, pod["metadata"]["namespace"])
            if build_label_predicate((entry.obj.get("spec") or {}).get("selector"))(labels)
        ]

    def _spend(self, entry: Entry, pod: Manifest, *, dry_run: bool) -> None:
        budget = entry.obj
        matches = build_label_predicate(budget["spec"].get("selector"))
        pods = [
            p.obj
            for p in self._cluster.store.entries("/pods", entry.namespace)
            if matches(p.obj["metadata"].get("labels") or {})
        ]
        desired, healthy = derive_budget(budget, pods)
        if not is_ready(pod):
            policy = (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy")
            if policy == "AlwaysAllow" or healthy >= desired:
                return
        if healthy - 1 < desired:
            text = f"The disruption budget {entry.name} needs {desired} healthy pods and has {healthy} currently"
            cause = {"reason": "DisruptionBudget", "message": text}
            raise too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                {"causes": [cause]},
            )
        status = budget.get("status") or {}
        if status.get("disruptionsAllowed", 0) > 0 and not dry_run:
            resource = self._cluster.registry.by_key(PDB_KEY)
            assert resource is not None
            new = dict_copy(budget)
            new["status"] = {**status, "disruptionsAllowed": status["disruptionsAllowed"] - 1}
            self._objects.write_internal(resource, new)
