"""Conditions about the way in: Ingress or HTTPRoute, and the certificate."""

from __future__ import annotations

from scoring_operator.api import Gateway, Manifest, ScoringModel
from scoring_operator.manifests import Children
from scoring_operator.manifests.exposure import CertificateSource, Exposure
from scoring_operator.status.conditions import Condition, condition
from scoring_operator.status.observed import Observed
from scoring_operator.status.reasons import Reason


def derive_exposed(model: ScoringModel, exposure: Exposure, observed: Observed) -> Condition:
    """Whether the URL leads to the model."""
    if exposure.host is None:
        if model.exposure == "ClusterInternal":
            message = "spec.exposure is ClusterInternal."
        else:
            message = (
                "No host: set spec.ingress.host or spec.gateway.hostname, "
                "or give the operator a BASE_DOMAIN."
            )
        service = f"http://{model.name}.{model.namespace}.svc"
        message += f" Inside the cluster the model is at {service}."
        return condition("Exposed", False, Reason.CLUSTER_INTERNAL, message)
    if exposure.gateway:
        return _route(exposure.gateway, exposure, observed.route)
    return _ingress(exposure, observed.ingress)


def _ingress(exposure: Exposure, ingress: Manifest | None) -> Condition:
    entries = ((ingress or {}).get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses = [entry.get("hostname") or entry.get("ip") for entry in entries]
    addresses = [address for address in addresses if address]
    if addresses:
        message = f"{exposure.url} leads to {', '.join(addresses)}."
        return condition("Exposed", True, Reason.READY, message)
    which = (
        f"IngressClass {exposure.ingress_class}"
        if exposure.ingress_class
        else "the default IngressClass"
    )
    message = (
        f"The Ingress has no address yet. Check that {which} exists and that its controller runs; "
        "set spec.ingress.className to choose another."
    )
    return condition("Exposed", False, Reason.INGRESS_PENDING, message)


def derive_redirect(exposure: Exposure, children: Children) -> Condition | None:
    """Who turns plain HTTP into HTTPS; None without a host. It is enforced either way."""
    if exposure.host is None:
        return None
    if children.proxy_redirects:
        who = "Gateway" if exposure.gateway else "ingress controller"
        message = f"The {who} redirects plain HTTP to HTTPS."
        return condition("HTTPSRedirect", True, Reason.PROXY_REDIRECTS, message)
    if exposure.gateway:
        hint = "To redirect at the Gateway, name its plain HTTP listener in spec.gateway.httpSectionName."
    else:
        hint = (
            "The IngressClass's controller is not known, or the kind that it redirects with is not installed; "
            "add its annotations in spec.ingress.annotations to redirect earlier."
        )
    message = f"The scorer itself redirects requests that came by plain HTTP. {hint}"
    return condition("HTTPSRedirect", True, Reason.SCORER_REDIRECTS, message)


def _route(target: Gateway, exposure: Exposure, route: Manifest | None) -> Condition:
    parents = (route or {}).get("status", {}).get("parents") or ()
    gateway = target.name
    if not parents:
        message = (
            f"No controller has answered for Gateway {gateway} yet. Check that the Gateway exists "
            "and that its listener allows routes from this namespace."
        )
        return condition("Exposed", False, Reason.INGRESS_PENDING, message)
    for parent in parents:
        for c in parent.get("conditions") or ():
            if c.get("type") in {"Accepted", "ResolvedRefs"} and c.get("status") == "False":
                message = (
                    f"Gateway {gateway} refuses the route: {c.get('reason', '')}: {c.get('message', '')} "
                    "Correct spec.gateway, or ask the owner of the Gateway."
                )
                return condition("Exposed", False, Reason.ROUTE_REJECTED, message)
    return condition("Exposed", True, Reason.READY, f"{exposure.url} leads to Gateway {gateway}.")


def derive_certificate(exposure: Exposure, observed: Observed) -> Condition | None:
    """Whether clients can trust the host's certificate; None without one of ours to watch."""
    if exposure.certificate in {CertificateSource.NONE, CertificateSource.GATEWAY}:
        return None
    if observed.certificate_problem:
        problem = observed.certificate_problem
        return condition("Certificate", False, problem.reason, problem.text())
    until = f" until {observed.certificate_expiry}" if observed.certificate_expiry else ""
    if exposure.certificate is CertificateSource.SELF_SIGNED:
        message = (
            f"The operator made a self-signed certificate, valid{until}, and renews it; clients do not trust it "
            "by themselves. For a trusted one set spec.ingress.tls.secretName or issuerRef."
        )
        return condition("Certificate", True, Reason.SELF_SIGNED, message)
    if exposure.certificate is CertificateSource.SECRET:
        return condition(
            "Certificate", True, Reason.PROVIDED, f"The given certificate is valid{until}."
        )
    return _issued(observed.certificate)


def _issued(certificate: Manifest | None) -> Condition:
    for c in (certificate or {}).get("status", {}).get("conditions") or ():
        if c.get("type") == "Ready":
            if c.get("status") == "True":
                return condition("Certificate", True, Reason.ISSUED, c.get("message", "issued"))
            message = (
                f"cert-manager has not issued it yet: {c.get('reason', '')}: {c.get('message', '')} "
                "See kubectl describe certificate."
            )
            return condition("Certificate", False, Reason.CERTIFICATE_PENDING, message)
    message = "cert-manager has not answered yet. Check that it runs and that the issuer exists."
    return condition("Certificate", False, Reason.CERTIFICATE_PENDING, message)
