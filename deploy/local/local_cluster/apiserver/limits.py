"""LimitRanges: defaults, minima and maxima for the containers of new pods (the LimitRanger admission plug-in)."""

from __future__ import annotations

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.errors import forbidden
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.quantities import parse_quantity


def apply_limit_ranges(pod: Manifest, resource: Resource, cluster: Cluster) -> Manifest:
    """Apply the namespace's LimitRanges to a new pod.

    Raises:
        ApiError: 403, a container is outside the limits.
    """
    ranges = cluster.store.entries("/limitranges", pod["metadata"]["namespace"])
    limits = [
        limit
        for entry in ranges
        for limit in entry.obj["spec"].get("limits") or ()
        if limit.get("type") == "Container"
    ]
    if not limits:
        return pod
    spec = dict(pod["spec"])
    problems: list[str] = []
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [_limit(container, limits, problems) for container in spec[field]]
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise forbidden(resource, pod["metadata"]["name"], text)
    return {**pod, "spec": spec}


def _limit(container: Manifest, limits: list[Manifest], problems: list[str]) -> Manifest:
    resources = dict(container.get("resources") or {})
    wanted = {k: dict(resources.get(k) or {}) for k in ("limits", "requests")}
    for limit in limits:
        for name, value in (limit.get("default") or {}).items():
            wanted["limits"].setdefault(name, value)
        for name, value in (limit.get("defaultRequest") or {}).items():
            wanted["requests"].setdefault(name, value)
        for name, value in (limit.get("min") or {}).items():
            asked = wanted["requests"].get(name, wanted["limits"].get(name))
            if asked is None:
                problems.append(
                    f"minimum {name} usage per Container is {value}.  No request is specified"
                )
            elif parse_quantity(asked) < parse_quantity(value):
                problems.append(
                    f"minimum {name} usage per Container is {value}, but request is {asked}"
                )
        for name, value in (limit.get("max") or {}).items():
            asked = wanted["limits"].get(name)
            if asked is None:
                problems.append(
                    f"maximum {name} usage per Container is {value}.  No limit is specified"
                )
            elif parse_quantity(asked) > parse_quantity(value):
                problems.append(
                    f"maximum {name} usage per Container is {value}, but limit is {asked}"
                )
    for name, value in wanted["limits"].items():
        wanted["requests"].setdefault(name, value)
    resources.update({k: v for k, v in wanted.items() if v})
    return {**container, "resources": resources}
