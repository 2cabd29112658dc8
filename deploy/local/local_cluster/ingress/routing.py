"""Ingress objects in, a routing table out: which backend answers a host and a path. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]

CONTROLLER = "mlscoring.io/local-ingress"
DEFAULT_CLASS_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"
LEGACY_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
CANARY_ANNOTATION = "mlscoring.io/canary"
CANARY_WEIGHT_ANNOTATION = "mlscoring.io/canary-weight"
REDIRECT_ANNOTATION = "mlscoring.io/ssl-redirect"
RETRY_ANNOTATION = "mlscoring.io/retry-non-idempotent"
TIMEOUT_ANNOTATION = "mlscoring.io/proxy-timeout-seconds"


@dataclass(frozen=True, slots=True)
class BackendRef:
    """A Service port as an Ingress names it.

    Args:
        namespace: the Ingress's and so the Service's namespace.
        service: the Service's name.
        port: the port's number or name.
    """

    namespace: str
    service: str
    port: int | str


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to the requests of one host and path.

    Args:
        path: the path of the rule.
        exact: whether only this very path matches; otherwise a prefix in whole segments.
        backend: where requests go.
        canary: where the share of ``canary_weight`` percent goes instead.
        canary_weight: 0 to 100.
        retry_non_idempotent: requests such as POST may be sent again to another pod.
        timeout_seconds: longest silence of the backend, None for the proxy's default.
    """

    path: str
    exact: bool
    backend: BackendRef
    canary: BackendRef | None = None
    canary_weight: float = 0.0
    retry_non_idempotent: bool = False
    timeout_seconds: float | None = None

    def matches(self, path: str) -> bool:
        """Whether a request path falls under this rule."""
        if self.exact:
            return path == self.path
        prefix = self.path.rstrip("/")
        return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")


@dataclass(slots=True)
class Site:
    """One host.

    Args:
        routes: in the order in which they are tried.
        tls: whether plain HTTP is redirected.
        default: the Ingress's default backend.
    """

    routes: list[Route] = field(default_factory=list)
    tls: bool = False
    default: Route | None = None


@dataclass(slots=True)
class RouteTable:
    """All sites.

    Args:
        exact: by host name.
        wildcard: by the part after ``*.``.
        anywhere: rules without a host, and default backends of Ingresses without rules.
    """

    exact: dict[str, Site] = field(default_factory=dict)
    wildcard: dict[str, Site] = field(default_factory=dict)
    anywhere: Site = field(default_factory=Site)

    def site(self, host: str) -> Site:
        """The site of a host name: exact, then wildcard (one label), then the rest."""
        site = self.exact.get(host)
        if site is None:
            _, _, parent = host.partition(".")
            site = self.wildcard.get(parent)
        return site if site is not None else self.anywhere

    def find(self, host: str, path: str) -> tuple[Site, Route | None]:
        """The site and the route of a request; no route: 404."""
        site = self.site(host)
        for route in site.routes:
            if route.matches(path):
                return site, route
        if site is not self.anywhere and site.default is None:
            for route in self.anywhere.routes:
                if route.matches(path):
                    return site, route
        return site, site.default or self.anywhere.default

    def backends(self) -> set[BackendRef]:
        """All Service ports that routes name."""
        found: set[BackendRef] = set()
        for site in [*self.exact.values(), *self.wildcard.values(), self.anywhere]:
            for route in [*site.routes, *([site.default] if site.default else [])]:
                found.add(route.backend)
                if route.canary is not None:
                    found.add(route.canary)
        return found


def is_ours(ingress: Manifest, classes: Mapping[str, Manifest]) -> bool:
    """Whether an Ingress belongs to this controller: by its class, or by the default class."""
    name = ingress["spec"].get("ingressClassName") or (
        ingress["metadata"].get("annotations") or {}
    ).get(LEGACY_CLASS_ANNOTATION)
    if name:
        chosen = classes.get(name)
        return chosen is not None and chosen["spec"].get("controller") == CONTROLLER
    return any(
        item["spec"].get("controller") == CONTROLLER
        and (item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS_ANNOTATION) == "true"
        for item in classes.values()
    )


def build_routes(ingresses: Iterable[Manifest]) -> RouteTable:
    """Merge Ingresses into one table.

    Where two Ingresses claim one host and path, the older one wins, as in other controllers. An
    Ingress marked as canary adds its weight to the routes of the others and has none of its own.
    """
    table = RouteTable()
    ordered = sorted(
        ingresses,
        key=lambda item: (
            item["metadata"].get("creationTimestamp") or "",
            item["metadata"].get("namespace", ""),
            item["metadata"]["name"],
        ),
    )
    canaries = [item for item in ordered if _annotation(item, CANARY_ANNOTATION) == "true"]
    for ingress in ordered:
        if not any(ingress is item for item in canaries):
            _add_ingress(table, ingress)
    for ingress in canaries:
        _add_canary(table, ingress)
    for site in [*table.exact.values(), *table.wildcard.values(), table.anywhere]:
        # Exact rules first, then longer prefixes before shorter ones.
        site.routes.sort(key=lambda route: (not route.exact, -len(route.path)))
    return table


def _add_ingress(table: RouteTable, ingress: Manifest) -> None:
    spec = ingress["spec"]
    redirect = _annotation(ingress, REDIRECT_ANNOTATION) != "false"
    tls_hosts = {host for entry in spec.get("tls") or [] for host in entry.get("hosts") or []}
    default = _backend(ingress, spec.get("defaultBackend"))
    rules = spec.get("rules") or []
    for rule in rules:
        host = (rule.get("host") or "").lower()
        site = _site_for(table, host)
        if redirect and _covered(host, tls_hosts):
            site.tls = True
        if default is not None and site.default is None and host:
            site.default = _route(ingress, "/", False, default)
        for path, exact, backend in _paths(ingress, rule):
            if not any(r.path == path and r.exact == exact for r in site.routes):
                site.routes.append(_route(ingress, path, exact, backend))
    if default is not None and not rules and table.anywhere.default is None:
        table.anywhere.default = _route(ingress, "/", False, default)


def _add_canary(table: RouteTable, ingress: Manifest) -> None:
    try:
        weight = min(100.0, max(0.0, float(_annotation(ingress, CANARY_WEIGHT_ANNOTATION) or "0")))
    except ValueError:
        weight = 0.0
    for rule in ingress["spec"].get("rules") or []:
        site = _site_for(table, (rule.get("host") or "").lower())
        for path, exact, backend in _paths(ingress, rule):
            for number, route in enumerate(site.routes):
                if route.path == path and route.exact == exact and route.canary is None:
                    site.routes[number] = Route(
                        path=path,
                        exact=exact,
                        backend=route.backend,
                        canary=backend,
                        canary_weight=weight,
                        retry_non_idempotent=route.retry_non_idempotent,
                        timeout_seconds=route.timeout_seconds,
                    )


def _site_for(table: RouteTable, host: str) -> Site:
    if not host:
        return table.anywhere
    if host.startswith("*."):
        return table.wildcard.setdefault(host[2:], Site())
    return table.exact.setdefault(host, Site())


def _covered(host: str, tls_hosts: set[str]) -> bool:
    if not host:
        return False
    return host in tls_hosts or f"*.{host.partition('.')[2]}" in tls_hosts


def _paths(ingress: Manifest, rule: Mapping[str, Any]) -> Iterable[tuple[str, bool, BackendRef]]:
    for item in (rule.get("http") or {}).get("paths") or []:
        backend = _backend(ingress, item.get("backend"))
        if backend is not None:
            # ImplementationSpecific means Prefix here, as in ingress-nginx.
            yield item.get("path") or "/", item.get("pathType") == "Exact", backend


def _backend(ingress: Manifest, backend: Mapping[str, Any] | None) -> BackendRef | None:
    service = (backend or {}).get("service")
    if not service:
        return None
    port = service.get("port") or {}
    return BackendRef(
        ingress["metadata"].get("namespace", "default"),
        service["name"],
        port.get("name") or int(port.get("number") or 0),
    )


def _route(ingress: Manifest, path: str, exact: bool, backend: BackendRef) -> Route:
    try:
        timeout = float(_annotation(ingress, TIMEOUT_ANNOTATION) or 0) or None
    except ValueError:
        timeout = None
    return Route(
        path=path,
        exact=exact,
        backend=backend,
        retry_non_idempotent=_annotation(ingress, RETRY_ANNOTATION) == "true",
        timeout_seconds=timeout,
    )


def _annotation(ingress: Manifest, name: str) -> str | None:
    value: str | None = (ingress["metadata"].get("annotations") or {}).get(name)
    return value
