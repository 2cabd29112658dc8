"""Admission: what the cluster's state has to say about a write, beyond the schema of the object.

Namespaces must exist and be alive, quotas hold, pods get what the default admission plug-ins of the real server set.
"""

from __future__ import annotations

from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.errors import ApiError, build_details, forbidden, method_not_allowed
from local_cluster.apiserver.limits import apply_limit_ranges
from local_cluster.apiserver.quota import check_quotas
from local_cluster.apiserver.resources import CRD_KEY, Manifest, Resource

_IMMORTAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
_UNREACHABLE_TOLERATION_SECONDS = 300
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}


class Admission:
    """The admission chain."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        """Refuse a new object in a namespace, or of a definition, that is not there or is going.

        Raises:
            ApiError: 404, 403 or 405.
        """
        if resource.crd is not None:
            crd = self._cluster.get(CRD_KEY, "", resource.qualified)
            if crd is not None and crd["metadata"].get("deletionTimestamp"):
                error = method_not_allowed()
                error.message = "create not allowed while custom resource definition is terminating"
                error.details = build_details(resource, name)
                raise error
        if not resource.namespaced:
            return
        found = self._cluster.get("/namespaces", "", namespace)
        if found is None:
            details = {"name": namespace, "kind": "namespaces"}
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found', details)
        if found["metadata"].get("deletionTimestamp"):
            text = f"namespace {namespace} is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": text,
                "field": "metadata.namespace",
            }
            raise forbidden(
                resource,
                name,
                f"unable to create new content in namespace {namespace} because it is being terminated",
                causes=[cause],
            )

    def check_delete(self, resource: Resource, name: str) -> None:
        """Refuse to delete what the cluster cannot live without.

        Raises:
            ApiError: 403.
        """
        if resource.storage_key == "/namespaces" and name in _IMMORTAL_NAMESPACES:
            raise forbidden(resource, name, "this namespace may not be deleted")

    def admit_create(self, resource: Resource, obj: Manifest, options: WriteOptions) -> Manifest:
        """Complete and check a new object.

        Raises:
            ApiError: 403.
        """
        if resource.storage_key == "/pods":
            obj = apply_limit_ranges(obj, resource, self._cluster)
            obj = self._complete_pod(obj, resource)
        if resource.namespaced:
            check_quotas(obj, resource, self._cluster, None)
        return obj

    def admit_update(
        self, resource: Resource, new: Manifest, old: Manifest, options: WriteOptions
    ) -> Manifest:
        """Complete and check a changed object.

        Raises:
            ApiError: 403.
        """
        if resource.namespaced and not options.subresource:
            check_quotas(new, resource, self._cluster, old)
        return new

    def _complete_pod(self, pod: Manifest, resource: Resource) -> Manifest:
        spec = dict(pod.get("spec") or {})
        name = pod["metadata"]["name"]
        account = spec.get("serviceAccountName") or "default"
        namespace = pod["metadata"]["namespace"]
        if self._cluster.get("/serviceaccounts", namespace, account) is None:
            raise forbidden(
                resource,
                name,
                f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found',
            )
        spec["serviceAccountName"] = spec["serviceAccount"] = account
        self._set_priority(spec, resource, name)
        tolerations = list(spec.get("tolerations") or ())
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(
                t.get("key") in {key, None, ""} and t.get("effect") in {"NoExecute", None}
                for t in tolerations
            ):
                tolerations.append(
                    {
                        "key": key,
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "tolerationSeconds": _UNREACHABLE_TOLERATION_SECONDS,
                    }
                )
        spec["tolerations"] = tolerations
        return {**pod, "spec": spec}

    def _set_priority(self, spec: Manifest, resource: Resource, name: str) -> None:
        wanted = spec.get("priorityClassName")
        value, policy = 0, "PreemptLowerPriority"
        if wanted in _SYSTEM_PRIORITIES:
            value = _SYSTEM_PRIORITIES[wanted]
        elif wanted:
            found = self._cluster.get("scheduling.k8s.io/priorityclasses", "", wanted)
            if found is None:
                raise forbidden(resource, name, f"no PriorityClass with name {wanted} was found")
            value, policy = found.get("value", 0), found.get("preemptionPolicy", policy)
        else:
            for entry in self._cluster.store.entries("scheduling.k8s.io/priorityclasses"):
                if entry.obj.get("globalDefault"):
                    spec["priorityClassName"] = entry.name
                    value, policy = (
                        entry.obj.get("value", 0),
                        entry.obj.get("preemptionPolicy", policy),
                    )
        spec["priority"] = value
        spec.setdefault("preemptionPolicy", policy)
