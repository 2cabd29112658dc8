from __future__ import annotations

from typing import Any

import pytest

from local_cluster.ingress.certificates import CertificateStore
from local_cluster.ingress.endpoints import derive_addresses, service_port_name
from local_cluster.ingress.routing import build_routes, is_ours


def rule(host: str | None, *paths: tuple[str, str, str]) -> dict[str, Any]:
    entries = [
        {
            "path": path,
            "pathType": kind,
            "backend": {"service": {"name": service, "port": {"name": "http"}}},
        }
        for path, kind, service in paths
    ]
    return {"http": {"paths": entries}} | ({"host": host} if host else {})


def ingress(name: str, *rules: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "creationTimestamp": given.pop("created", "2026-01-01T00:00:00Z"),
            "annotations": given.pop("annotations", {}),
        },
        "spec": {"rules": list(rules), **given},
    }


TABLE = build_routes(
    [
        ingress(
            "a",
            rule(
                "a.test",
                ("/", "Prefix", "root"),
                ("/api", "Prefix", "api"),
                ("/api/v1/", "ImplementationSpecific", "v1"),
                ("/api", "Exact", "exact"),
            ),
            rule("*.wild.test", ("/", "Prefix", "wild")),
            rule("b.wild.test", ("/only", "Prefix", "b")),
            rule(None, ("/any", "Prefix", "any")),
        )
    ]
)


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("a.test", "/", "root"),
        ("a.test", "/other", "root"),
        ("a.test", "/api", "exact"),
        ("a.test", "/api/", "api"),
        ("a.test", "/apix", "root"),
        ("a.test", "/api/v1", "v1"),
        ("a.test", "/api/v1/x", "v1"),
        ("x.wild.test", "/", "wild"),
        ("x.y.wild.test", "/", None),
        ("wild.test", "/", None),
        ("b.wild.test", "/only/this", "b"),
        ("b.wild.test", "/", None),
        ("b.wild.test", "/any/where", "any"),
        ("unknown.test", "/any", "any"),
        ("unknown.test", "/", None),
    ],
)
def test_host_and_path_choose_the_service(host: str, path: str, service: str | None) -> None:
    _, route = TABLE.find(host, path)
    assert (route.backend.service if route else None) == service


def test_default_backend_takes_what_no_rule_does() -> None:
    backend = {"service": {"name": "fallback", "port": {"number": 80}}}
    table = build_routes([ingress("d", defaultBackend=backend)])
    _, route = table.find("any.test", "/x")
    assert route is not None
    assert (route.backend.service, route.backend.port) == ("fallback", 80)


def test_older_ingress_keeps_a_path_that_two_claim() -> None:
    old = ingress("z", rule("a.test", ("/", "Prefix", "old")))
    new = ingress("a", rule("a.test", ("/", "Prefix", "new")), created="2026-02-01T00:00:00Z")
    _, route = build_routes([new, old]).find("a.test", "/")
    assert route is not None
    assert route.backend.service == "old"


def test_canary_adds_its_weight_and_no_route_of_its_own() -> None:
    canary = ingress(
        "canary",
        rule("a.test", ("/", "Prefix", "next"), ("/beta", "Prefix", "next")),
        annotations={"mlscoring.io/canary": "true", "mlscoring.io/canary-weight": "30"},
        created="2025-01-01T00:00:00Z",
    )
    table = build_routes([canary, ingress("main", rule("a.test", ("/", "Prefix", "main")))])
    _, route = table.find("a.test", "/beta")
    assert route is not None
    assert route.canary is not None
    assert (route.backend.service, route.canary.service) == ("main", "next")
    assert route.canary_weight == 30


@pytest.mark.parametrize(
    ("tls", "annotations", "redirects"),
    [
        ([{"hosts": ["a.test"]}], {}, True),
        ([{"hosts": ["*.test"]}], {}, True),
        ([{"hosts": ["b.test"]}], {}, False),
        ([{"hosts": ["a.test"]}], {"mlscoring.io/ssl-redirect": "false"}, False),
    ],
)
def test_host_is_redirected_when_tls_covers_it(
    tls: list[Any], annotations: dict[str, str], redirects: bool
) -> None:
    item = ingress("a", rule("a.test", ("/", "Prefix", "x")), tls=tls, annotations=annotations)
    assert build_routes([item]).site("a.test").tls is redirects


def ingress_class(controller: str, default: bool = False) -> dict[str, Any]:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"annotations": annotations}, "spec": {"controller": controller}}


def test_class_decides_by_its_controller_and_default() -> None:
    ours = ingress_class("mlscoring.io/local-ingress", default=True)
    other = ingress_class("k8s.io/ingress-nginx")
    classes = {"local": ours, "nginx": other}
    assert is_ours(ingress("a", ingressClassName="local"), classes)
    assert not is_ours(ingress("a", ingressClassName="nginx"), classes)
    assert not is_ours(ingress("a", ingressClassName="absent"), classes)
    assert is_ours(ingress("a"), classes)
    assert not is_ours(ingress("a"), {"nginx": other})


def test_service_port_is_found_by_number_or_name() -> None:
    service = {"spec": {"ports": [{"name": "http", "port": 80}, {"port": 81}]}}
    assert service_port_name(service, 80) == "http"
    assert service_port_name(service, "http") == "http"
    assert service_port_name(service, 81) == ""
    assert service_port_name(service, 82) is None


def test_addresses_are_those_of_ready_endpoints_and_of_serving_ones_that_leave() -> None:
    item = {
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["127.0.0.2"], "conditions": {"ready": True}},
            {"addresses": ["127.0.0.3"], "conditions": {"ready": False}},
            {
                "addresses": ["127.0.0.4"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
            },
        ],
    }
    assert derive_addresses([item], "http") == ([("127.0.0.2", 8080)], [("127.0.0.4", 8080)])
    assert derive_addresses([item], "other") == ([], [])


def test_unusable_certificate_is_reported_and_leaves_the_default() -> None:
    store = CertificateStore()
    problems = store.update(
        {"a.test": {"data": {"tls.crt": "bm8=", "tls.key": "bm8="}}, "b.test": {"data": {}}}
    )
    assert set(problems) == {"a.test", "b.test"}
    assert "tls.crt" in problems["b.test"]
    assert store.find("a.test") is None
