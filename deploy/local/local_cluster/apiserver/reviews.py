"""Virtual resources: objects that are answered and never stored.

Token and access reviews (whoever is authenticated may do everything), and tokens of service accounts.
"""

from __future__ import annotations

from datetime import UTC, datetime

from local_cluster.apiserver import clock
from local_cluster.apiserver.auth import AUDIENCES, Authenticator, User
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.decoding import check_type, refuse_wrong_types
from local_cluster.apiserver.errors import ApiError, conflict, invalid, not_found
from local_cluster.apiserver.negotiation import parse_body
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest

_MIN_TOKEN_SECONDS = 600
_ALL_RULES = {
    "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    ],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "incomplete": False,
}

REVIEWS = frozenset(
    {
        "authentication.k8s.io/selfsubjectreviews",
        "authentication.k8s.io/tokenreviews",
        "authorization.k8s.io/localsubjectaccessreviews",
        "authorization.k8s.io/selfsubjectaccessreviews",
        "authorization.k8s.io/selfsubjectrulesreviews",
        "authorization.k8s.io/subjectaccessreviews",
    }
)
"""Storage keys of the types that are only ever created and answered at once."""


class Reviews:
    """Answers virtual resources."""

    def __init__(self, cluster: Cluster, authenticator: Authenticator) -> None:
        self._cluster = cluster
        self._authenticator = authenticator

    def review(self, request: ResourceRequest) -> Manifest:
        """Answer a review.

        Raises:
            ApiError: 400, the body is no review; 422, it lacks what is asked about.
        """
        resource = request.resource
        body = check_type(parse_body(request.body, request.content_type), resource)
        refuse_wrong_types(body, resource, self._cluster)
        spec: Manifest = body.get("spec") or {}
        match resource.plural:
            case "tokenreviews":
                status = self._review_token(spec)
            case "selfsubjectreviews":
                status = {"userInfo": request.user.info()}
            case "selfsubjectrulesreviews":
                status = dict(_ALL_RULES)
            case _:
                if not spec.get("resourceAttributes") and not spec.get("nonResourceAttributes"):
                    message = (
                        "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be "
                        "specified"
                    )
                    cause = {
                        "reason": "FieldValueInvalid",
                        "message": message,
                        "field": "spec.resourceAttributes",
                    }
                    raise invalid(resource.group, resource.kind, "", [cause])
                status = {"allowed": True, "reason": "every authenticated client may do everything"}
        review = {"kind": resource.kind, "apiVersion": resource.api_version}
        metadata = {**body["metadata"]}
        if resource.plural == "selfsubjectreviews":
            metadata["creationTimestamp"] = clock.now()
            return {**review, "metadata": metadata, "status": status}
        return {**review, "metadata": metadata, "spec": spec, "status": status}

    def _review_token(self, spec: Manifest) -> Manifest:
        user: User | None = self._authenticator.check_token(spec.get("token") or "")
        if user is None:
            return {"user": {}, "error": "invalid bearer token"}
        return {
            "authenticated": True,
            "user": user.info(),
            "audiences": spec.get("audiences") or AUDIENCES,
        }

    def request_token(self, request: ResourceRequest) -> Manifest:
        """Issue a token for the service account of the path.

        Raises:
            ApiError: 404, 409 or 422.
        """
        resource = request.resource
        account = self._cluster.get("/serviceaccounts", request.namespace, request.name)
        if account is None:
            raise not_found(resource, request.name)
        body = check_type(
            parse_body(request.body, request.content_type),
            resource,
            "TokenRequest",
            "authentication.k8s.io/v1",
        )
        spec: Manifest = dict(body.get("spec") or {})
        seconds = spec.get("expirationSeconds") or 3600
        if not isinstance(seconds, int) or seconds < _MIN_TOKEN_SECONDS or seconds > 2**32:
            message = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            cause = {
                "reason": "FieldValueInvalid",
                "message": message,
                "field": "spec.expirationSeconds",
            }
            raise invalid("authentication.k8s.io", "TokenRequest", "", [cause])
        bound = self._bound_pod(request, spec.get("boundObjectRef"))
        audiences = list(spec.get("audiences") or ())
        token, expires = self._authenticator.issue(account, audiences, seconds, bound)
        moment = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": request.name,
                "namespace": request.namespace,
                "creationTimestamp": clock.now(),
            },
            "spec": {
                "audiences": audiences or AUDIENCES,
                "expirationSeconds": seconds,
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": moment},
        }

    def _bound_pod(self, request: ResourceRequest, reference: Manifest | None) -> Manifest | None:
        if not reference:
            return None
        if reference.get("kind") != "Pod":
            message = f"Invalid value: {reference.get('kind')}: cannot bind token for serviceaccount to this type"
            raise ApiError(400, "BadRequest", message)
        pods = self._cluster.registry.by_kind("v1", "Pod")
        assert pods is not None
        name = str(reference.get("name", ""))
        pod = self._cluster.get("/pods", request.namespace, name)
        if pod is None:
            raise not_found(pods, name)
        if reference.get("uid") and reference["uid"] != pod["metadata"]["uid"]:
            raise conflict(
                pods,
                name,
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated",
            )
        return pod
