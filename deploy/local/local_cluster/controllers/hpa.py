"""HorizontalPodAutoscalers: metrics in, a new scale and a status out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local_cluster.client import (
    HPAS,
    PODMETRICS,
    ApiError,
    Client,
    EventRecorder,
    Key,
    Manifest,
    Resource,
    WorkQueue,
)
from local_cluster.controllers.autoscaling import (
    History,
    Limited,
    MetricError,
    Recommendation,
    is_fresh,
    limit,
    recommend,
    requests_by_pod,
    rules,
    tolerance_of,
    usage_by_pod,
)
from local_cluster.controllers.caches import Caches
from local_cluster.controllers.conditions import (
    Condition,
    find_condition,
    with_condition,
    without_condition,
)
from local_cluster.controllers.quantities import format_milli, parse_milli
from local_cluster.controllers.selectors import matches_selector, parse_selector
from local_cluster.controllers.times import format_time, now

SYNC_SECONDS = 15.0  # kube-controller-manager's --horizontal-pod-autoscaler-sync-period

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Measured:
    recommendation: Recommendation
    description: str
    status: dict[str, Any]


class HorizontalController:
    """Syncs each autoscaler every few seconds.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
        sync_seconds: time between two looks at the metrics.
    """

    def __init__(
        self,
        client: Client,
        caches: Caches,
        recorder: EventRecorder,
        *,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._sync_seconds = sync_seconds
        self._histories: dict[Key, tuple[str, History]] = {}
        self._plurals: dict[tuple[str, str], Resource] = {}
        self.queue: WorkQueue[Key] = WorkQueue("hpa")
        caches.hpas.on_change(self._on_hpa)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=5)

    def _on_hpa(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if new is None:
            self._histories.pop(key, None)
        elif old is None or old["spec"] != new["spec"]:
            self.queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one autoscaler's metrics once.

        Returns:
            Seconds until the next look.
        """
        hpa = self._caches.hpas.get(*key)
        if hpa is None:
            return None
        uid = hpa["metadata"]["uid"]
        known = self._histories.get(key)
        history = known[1] if known is not None and known[0] == uid else History()
        self._histories[key] = (uid, history)
        before = hpa.get("status") or {}
        status: dict[str, Any] = {
            name: before[name]
            for name in ("lastScaleTime", "currentReplicas", "desiredReplicas", "currentMetrics")
            if name in before
        }
        conditions: list[Condition] = list(before.get("conditions") or [])
        status["conditions"] = await self._sync(hpa, history, status, conditions)
        status.setdefault("desiredReplicas", 0)
        status.setdefault("currentReplicas", 0)
        if before.get("observedGeneration") is not None:
            status["observedGeneration"] = before["observedGeneration"]
        if status != before:
            try:
                await self._client.replace(HPAS, {**hpa, "status": status}, subresource="status")
            except ApiError as err:
                if not (err.is_not_found or err.is_conflict):
                    raise
        return self._sync_seconds

    async def _sync(
        self,
        hpa: Manifest,
        history: History,
        status: dict[str, Any],
        conditions: list[Condition],
    ) -> list[Condition]:
        at = now()
        spec = hpa["spec"]
        target = spec["scaleTargetRef"]
        namespace = hpa["metadata"]["namespace"]
        try:
            resource = await self._resource_of(target)
            scale = await self._client.get(resource, target["name"], namespace, subresource="scale")
        except ApiError as err:
            self._recorder.warning(hpa, "FailedGetScale", err.message)
            message = (
                f"the HPA controller was unable to get the target's current scale: {err.message}"
            )
            return with_condition(conditions, "AbleToScale", "False", "FailedGetScale", message, at)
        conditions = with_condition(
            conditions,
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
            at,
        )
        current = int(scale["spec"].get("replicas") or 0)
        status["currentReplicas"] = int(scale.get("status", {}).get("replicas") or 0)
        minimum, maximum = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
        clock = asyncio.get_running_loop().time()
        why = ""
        if current == 0 and minimum != 0:
            conditions = _set(
                conditions,
                "ScalingActive",
                "False",
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
                at,
            )
            status["desiredReplicas"] = 0
            return conditions
        if current > maximum:
            wanted, why = maximum, "Current number of replicas above Spec.MaxReplicas"
        elif current < minimum:
            wanted, why = minimum, "Current number of replicas below Spec.MinReplicas"
        else:
            selector = scale.get("status", {}).get("selector") or ""
            wanted_by_metrics, why, conditions = await self._measure(
                hpa, selector, current, status, conditions, at
            )
            if wanted_by_metrics is None:
                status.setdefault("desiredReplicas", current)
                return conditions
            limited: Limited = limit(spec, current, wanted_by_metrics, history, clock)
            conditions = _set(
                conditions, "AbleToScale", "True", limited.able_reason, limited.able_message, at
            )
            conditions = _set(
                conditions,
                "ScalingLimited",
                "True" if limited.limited else "False",
                limited.limited_reason,
                limited.limited_message,
                at,
            )
            wanted = limited.replicas
            if wanted < current:
                why = "All metrics below target"
        status["desiredReplicas"] = wanted
        if wanted == current:
            return conditions
        return await self._rescale(hpa, resource, scale, wanted, why, status, conditions, history)

    async def _rescale(
        self,
        hpa: Manifest,
        resource: Resource,
        scale: Manifest,
        wanted: int,
        why: str,
        status: dict[str, Any],
        conditions: list[Condition],
        history: History,
    ) -> list[Condition]:
        current = int(scale["spec"].get("replicas") or 0)
        name, namespace = scale["metadata"]["name"], scale["metadata"]["namespace"]
        try:
            await self._client.request(
                "PUT",
                resource.path(namespace, name, "scale"),
                body={**scale, "spec": {**scale["spec"], "replicas": wanted}},
            )
        except ApiError as err:
            self._recorder.warning(
                hpa, "FailedRescale", f"New size: {wanted}; reason: {why}; error: {err.message}"
            )
            status["desiredReplicas"] = current
            message = f"the HPA controller was unable to update the target scale: {err.message}"
            return _set(conditions, "AbleToScale", "False", "FailedUpdateScale", message, now())
        clock = asyncio.get_running_loop().time()
        change = wanted - current
        events, rule = (history.ups, "scaleUp") if change > 0 else (history.downs, "scaleDown")
        policies = rules(hpa["spec"], rule)["policies"]
        longest = max((float(item["periodSeconds"]) for item in policies), default=0.0)
        events[:] = [item for item in events if clock - item[0] < longest]
        events.append((clock, abs(change)))
        self._recorder.normal(hpa, "SuccessfulRescale", f"New size: {wanted}; reason: {why}")
        status["lastScaleTime"] = format_time(now())
        message = f"the HPA controller was able to update the target scale to {wanted}"
        return _set(conditions, "AbleToScale", "True", "SucceededRescale", message, now())

    async def _measure(
        self,
        hpa: Manifest,
        selector: str,
        current: int,
        status: dict[str, Any],
        conditions: list[Condition],
        at: datetime,
    ) -> tuple[int | None, str, list[Condition]]:
        """Evaluate all metrics; the largest recommendation wins."""
        metrics = hpa["spec"].get("metrics") or [
            {
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80},
                },
            }
        ]
        best: _Measured | None = None
        failures: list[MetricError] = []
        reported: list[dict[str, Any]] = []
        for metric in metrics:
            try:
                measured = await self._evaluate(hpa, metric, selector, current, at)
            except MetricError as err:
                failures.append(err)
                self._recorder.warning(hpa, err.reason, str(err))
                # A metric without a value keeps its place in the list.
                reported.append({"type": ""})
                continue
            reported.append(measured.status)
            if best is None or measured.recommendation.replicas > best.recommendation.replicas:
                best = measured
        if best is None or (failures and best.recommendation.replicas < current):
            text = f"the HPA was unable to compute the replica count: {failures[0]}"
            self._recorder.warning(
                hpa,
                "FailedComputeMetricsReplicas",
                f"invalid metrics ({len(failures)} invalid out of {len(metrics)}), "
                f"first error is: {failures[0]}",
            )
            return (
                None,
                "",
                _set(conditions, "ScalingActive", "False", failures[0].reason, text, at),
            )
        status["currentMetrics"] = [item for item in reported if item["type"]]
        conditions = _set(
            conditions,
            "ScalingActive",
            "True",
            "ValidMetricFound",
            "the HPA was able to successfully calculate a replica count from " + best.description,
            at,
        )
        return best.recommendation.replicas, f"{best.description} above target", conditions

    async def _evaluate(
        self, hpa: Manifest, metric: Mapping[str, Any], selector: str, current: int, at: datetime
    ) -> _Measured:
        type_ = metric["type"]
        if type_ in ("Pods", "Object", "External"):
            raise _not_available(metric)
        container: str | None = None
        source: Mapping[str, Any]
        if type_ == "ContainerResource":
            source = metric["containerResource"]
            container, word, reason = (
                source["container"],
                "container resource",
                "FailedGetContainerResourceMetric",
            )
        elif type_ == "Resource":
            source, word, reason = metric["resource"], "resource", "FailedGetResourceMetric"
        else:
            raise MetricError("InvalidMetricSourceType", f'unknown metric source type "{type_}"')
        name, target = source["name"], source["target"]
        namespace = hpa["metadata"]["namespace"]
        by_utilization = target.get("averageUtilization") is not None
        what = f"{name} {'utilization' if by_utilization else 'usage'}"
        try:
            answer = await self._client.list(PODMETRICS, namespace, label_selector=selector)
        except ApiError as err:
            raise MetricError(
                reason,
                f"failed to get {what}: unable to get metrics for resource {name}: "
                f"unable to fetch metrics from resource metrics API: {err.message}",
            ) from err
        fresh = [item for item in answer["items"] if is_fresh(item, at)]
        usage = usage_by_pod(fresh, name, container)
        if not usage:
            raise MetricError(
                reason,
                f"failed to get {what}: unable to get metrics for resource {name}: "
                "no metrics returned from resource metrics API",
            )
        pods = self._pods(namespace, selector)
        tolerances = {
            "tolerance_up": tolerance_of(hpa["spec"], "scaleUp"),
            "tolerance_down": tolerance_of(hpa["spec"], "scaleDown"),
        }
        try:
            result = recommend(
                pods,
                usage,
                requests_by_pod(pods, name, container) if by_utilization else {},
                current,
                at,
                resource=name,
                target_utilization=target.get("averageUtilization"),
                target_average_milli=(
                    None if by_utilization else parse_milli(target.get("averageValue") or 0)
                ),
                **tolerances,
            )
        except MetricError as err:
            raise MetricError(reason, f"failed to get {what}: {err}") from err
        shown: dict[str, Any] = {"averageValue": format_milli(result.average_milli)}
        if result.utilization is not None:
            shown["averageUtilization"] = result.utilization
        body = {"name": name, "current": shown}
        if container is not None:
            body["container"] = container
        field = "containerResource" if container is not None else "resource"
        suffix = "utilization (percentage of request)" if by_utilization else ""
        return _Measured(result, f"{name} {word} {suffix}".rstrip(), {"type": type_, field: body})

    def _pods(self, namespace: str, selector: str) -> list[Manifest]:
        wanted = parse_selector(selector)
        required = {
            expression["key"]: expression["values"][0]
            for expression in wanted["matchExpressions"]
            if expression["operator"] == "In" and len(expression["values"]) == 1
        }
        return [
            pod
            for pod in self._caches.pods_with(namespace, required)
            if matches_selector(wanted, pod["metadata"].get("labels"))
        ]

    async def _resource_of(self, target: Mapping[str, Any]) -> Resource:
        """Find the collection of a kind through discovery."""
        api_version, kind = target.get("apiVersion") or "v1", target["kind"]
        known = self._plurals.get((api_version, kind))
        if known is not None:
            return known
        group, _, version = api_version.rpartition("/")
        root = f"/apis/{api_version}" if group else f"/api/{version}"
        answer = await self._client.request("GET", root)
        for item in answer.get("resources") or []:
            if item["kind"] == kind and "/" not in item["name"]:
                found = Resource(group, version, item["name"], bool(item["namespaced"]), kind)
                self._plurals[api_version, kind] = found
                return found
        raise ApiError(
            404,
            "NotFound",
            f'no matches for kind "{kind}" in group "{group}"',
        )


def _set(
    conditions: list[Condition], type_: str, status: str, reason: str, message: str, at: datetime
) -> list[Condition]:
    """Set a condition, its message included, in its place of the list."""
    current = find_condition(conditions, type_)
    if current is not None and (current["status"], current.get("reason")) == (status, reason):
        fresh = {**current, "message": message}
    else:
        fresh = (
            find_condition(with_condition(conditions, type_, status, reason, message, at), type_)
            or {}
        )
    if current is None:
        return [*without_condition(conditions, type_), fresh]
    return [fresh if item is current else item for item in conditions]


def _not_available(metric: Mapping[str, Any]) -> MetricError:
    """What an autoscaler says where no such metrics API is registered."""
    type_ = metric["type"]
    source = metric[type_[0].lower() + type_[1:]]
    name = source["metric"]["name"]
    if type_ == "External":
        return MetricError(
            "FailedGetExternalMetric",
            f"unable to get external metric {name}: unable to fetch metrics from external metrics "
            "API: no external metrics API (external.metrics.k8s.io) registered",
        )
    return MetricError(
        f"FailedGet{type_}Metric",
        f"unable to get metric {name}: unable to fetch metrics from custom metrics API: "
        "no custom metrics API (custom.metrics.k8s.io) registered",
    )
