from __future__ import annotations

import json

import pytest

from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings
from scoring_operator.status import Observed, Reason, derive_status, merge_conditions
from scoring_operator.status.conditions import Condition
from scoring_operator.status.termination import Finding

SETTINGS = Settings(base_domain="models.example.com")
READY_INGRESS = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}


def pod(
    revision,
    *,
    name="faq-1",
    fetch=None,
    scorer=None,
    ready=False,
    label="mlscoring.io/scoringmodel",
    **status,
):
    containers = []
    if scorer is not None:
        containers = [{"name": "scorer", "image": "scorer:1", **scorer}]
    init = [{"name": "fetch", "image": "scorer:1", **fetch}] if fetch is not None else []
    conditions = [{"type": "Ready", "status": str(ready)}, *status.pop("conditions", [])]
    return {
        "metadata": {"name": name, "labels": {label: "faq", "mlscoring.io/revision": revision}},
        "status": {
            "conditions": conditions,
            "initContainerStatuses": init,
            "containerStatuses": containers,
            **status,
        },
    }


FETCHED = {
    "state": {
        "terminated": {
            "exitCode": 0,
            "reason": "Completed",
            "message": json.dumps({"reason": "Fetched", "digest": "sha256:abc", "bytes": 5}),
        }
    }
}
RUNNING = {"state": {"running": {}}, "started": True, "ready": True}


def serving(revision, name="faq-1", **more):
    return pod(revision, name=name, fetch=FETCHED, scorer=RUNNING, ready=True, **more)


def last_words(reason, message="what happened", hint="the way out", code=1):
    said = json.dumps({"reason": reason, "message": message, "hint": hint})
    return {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": code, "reason": "Error", "message": said}},
    }


@pytest.fixture
def derive(model):
    def run(*, spec=None, pods=lambda revision: (), replica_sets=lambda revision: (), **observed):
        parsed = model(**(spec or {}))
        exposure = plan_exposure(parsed, SETTINGS)
        children = build_children(parsed, SETTINGS, exposure, Wishes())
        observed.setdefault("ingress", READY_INGRESS)
        revision = children.revision
        seen = Observed(
            pods=tuple(pods(revision)), replica_sets=tuple(replica_sets(revision)), **observed
        )
        status = derive_status(parsed, children, exposure, seen)
        return status, {c.type: c for c in status.conditions}

    return run


def test_a_serving_pod_makes_everything_true(derive):
    status, conditions = derive(pods=lambda r: [serving(r)])
    assert {t: c.status for t, c in conditions.items()} == {
        "Ready": "True",
        "ModelLoaded": "True",
        "Available": "True",
        "HTTPSRedirect": "True",
        "Exposed": "True",
        "Certificate": "True",
    }
    assert conditions["Ready"].reason == Reason.READY
    assert conditions["Certificate"].reason == Reason.SELF_SIGNED
    assert status.fields["modelDigest"] == "sha256:abc"
    assert status.fields["readyReplicas"] == 1
    assert status.fields["url"] == "https://faq.default.models.example.com"
    assert status.fields["selector"] == "mlscoring.io/scoringmodel=faq"


def test_nothing_yet_is_progress(derive):
    _, conditions = derive()
    assert (conditions["Ready"].status, conditions["Ready"].reason) == ("False", "Progressing")
    assert conditions["ModelLoaded"].status == "Unknown"


QUOTA = {
    "status": {
        "conditions": [
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": 'pods "x" is forbidden: exceeded quota: small, requested: memory=2Gi',
            }
        ]
    }
}


def rejected(revision, replica_set):
    return {"metadata": {"labels": {"mlscoring.io/revision": revision}}, **replica_set}


UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
}


@pytest.mark.parametrize(
    ("states", "reason", "words"),
    [
        ({"fetch": last_words("ModelNotFound")}, "ModelNotFound", "what happened. The way out."),
        ({"fetch": last_words("ModelForbidden")}, "ModelForbidden", "The way out."),
        ({"fetch": last_words("ModelUnreachable")}, "ModelUnreachable", "The way out."),
        ({"fetch": last_words("DigestMismatch")}, "DigestMismatch", "The way out."),
        ({"fetch": last_words("DiskFull")}, "DiskFull", "The way out."),
        ({"fetch": {"state": {"running": {}}}}, "ModelDownloading", "fetching the model"),
        ({"fetch": FETCHED, "scorer": last_words("UnsafePickle")}, "UnsafePickle", "way out"),
        ({"fetch": FETCHED, "scorer": last_words("VersionMismatch")}, "VersionMismatch", "way"),
        ({"fetch": FETCHED, "scorer": last_words("MissingDependency")}, "MissingDependency", ""),
        ({"fetch": FETCHED, "scorer": last_words("LoadFailed")}, "LoadFailed", ""),
        ({"fetch": FETCHED, "scorer": last_words("ScriptFailed")}, "ScriptFailed", ""),
        ({"fetch": FETCHED, "scorer": last_words("SampleFailed")}, "SampleFailed", ""),
        (
            {
                "fetch": FETCHED,
                "scorer": {
                    "state": {"running": {}},
                    "started": False,
                    "lastState": {
                        "terminated": {
                            "exitCode": 1,
                            "message": '{"reason": "LoadFailed", "message": "m", "hint": "h"}',
                        }
                    },
                },
            },
            "LoadFailed",
            "m. H.",
        ),
        (
            {"fetch": FETCHED, "scorer": {"state": {"running": {}}, "started": False}},
            "ModelLoading",
            "loading the model",
        ),
        (
            {"fetch": FETCHED, "scorer": {"state": {"running": {}}, "started": True}},
            "Progressing",
            "readiness probe",
        ),
        (
            {
                "scorer": {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            },
            "OutOfMemory",
            "spec.resources.limits.memory",
        ),
        (
            {
                "scorer": {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 3, "message": "boom\n"}},
                }
            },
            "CrashLoop",
            "last words: boom",
        ),
        (
            {
                "scorer": {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "started": False,
                    "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}},
                }
            },
            "ProbeTimeout",
            "spec.probes.startupSeconds",
        ),
        (
            {"fetch": {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}}},
            "ImagePull",
            "denied",
        ),
        (
            {
                "fetch": {
                    "state": {
                        "waiting": {
                            "reason": "CreateContainerConfigError",
                            "message": 'secret "storage" not found',
                        }
                    }
                }
            },
            "ConfigMissing",
            'secret "storage" not found',
        ),
        (
            {"conditions": [{**UNSCHEDULED, "message": "0/3 nodes: 3 Insufficient memory."}]},
            "Unschedulable",
            "spec.resources.requests for memory",
        ),
        (
            {
                "conditions": [
                    {**UNSCHEDULED, "message": "0/1: 1 node(s) had untolerated taint {a: b}."}
                ]
            },
            "Unschedulable",
            "spec.tolerations for a: b",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "exceeds ephemeral storage limit"},
            "DiskFull",
            "spec.storage.sizeLimit",
        ),
        ({"phase": "Failed", "reason": "NodeLost"}, "Evicted", "NodeLost"),
    ],
)
def test_the_reason_is_found_in_the_pod(derive, states, reason, words):
    _, conditions = derive(pods=lambda r: [pod(r, **states)])
    assert conditions["Ready"].status == "False"
    assert conditions["Ready"].reason == reason
    assert words in conditions["Ready"].message


MODEL_IMAGE = "registry.example.com/models/faq:3"


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        (
            {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{MODEL_IMAGE}": ErrImagePull: denied',
            },
            f"the model's image {MODEL_IMAGE} cannot be pulled",
        ),
        (
            {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "scorer:1"'},
            "image scorer:1 cannot be pulled",
        ),
        (
            {"reason": "CreateContainerError", "message": "invalid mount"},
            "need a container runtime with image volumes",
        ),
    ],
)
def test_an_image_that_holds_the_model_is_told_from_the_image_of_the_scorer(derive, waiting, words):
    _, conditions = derive(
        spec={"modelURI": f"oci://{MODEL_IMAGE}"},
        pods=lambda r: [pod(r, fetch={"state": {"waiting": waiting}})],
    )
    assert conditions["Ready"].reason == "ImagePull"
    assert words in conditions["Ready"].message


def test_a_gpu_that_nobody_has_is_no_gpu(derive):
    short = {**UNSCHEDULED, "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
    _, conditions = derive(spec={"device": "gpu"}, pods=lambda r: [pod(r, conditions=[short])])
    assert conditions["Ready"].reason == "NoGPU"
    assert "InPlace" in conditions["Ready"].message


def test_a_full_quota_is_named(derive):
    _, conditions = derive(replica_sets=lambda r: [rejected(r, QUOTA)])
    assert conditions["Ready"].reason == "QuotaExceeded"
    assert "exceeded quota: small" in conditions["Ready"].message


def test_troubles_of_another_revision_are_not_told(derive):
    _, conditions = derive(
        pods=lambda r: [serving(r)], replica_sets=lambda r: [rejected("old", QUOTA)]
    )
    assert conditions["Ready"].status == "True"


def test_a_rejected_pod_is_named(derive):
    violates = json.loads(
        json.dumps(QUOTA).replace("exceeded quota: small", "violates PodSecurity")
    )
    _, conditions = derive(replica_sets=lambda r: [rejected(r, violates)])
    assert conditions["Ready"].reason == "PodRejected"


def test_a_missed_deadline_is_told_when_nothing_better_is_known(derive):
    missed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    deployment = {"status": {"conditions": [{**missed, "message": "timed out"}]}}
    _, conditions = derive(deployment=deployment)
    assert conditions["Ready"].reason == "RolloutStuck"
    _, conditions = derive(
        deployment=deployment, pods=lambda r: [pod(r, fetch=last_words("ModelNotFound"))]
    )
    assert conditions["Ready"].reason == "ModelNotFound"


def test_ready_is_about_the_wanted_revision_while_the_previous_one_serves(derive):
    status, conditions = derive(
        pods=lambda r: [serving("old"), pod(r, name="faq-2", fetch=last_words("ModelNotFound"))]
    )
    assert (conditions["Ready"].status, conditions["Ready"].reason) == ("False", "ModelNotFound")
    assert "previous revision serves on with 1 pod" in conditions["Ready"].message
    assert conditions["Available"].status == "True"
    assert conditions["ModelLoaded"].status == "False"
    assert status.fields["readyReplicas"] == 1
    assert "modelDigest" not in status.fields


def test_a_rollout_is_over_when_the_previous_revision_is_gone(derive):
    _, conditions = derive(pods=lambda r: [serving("old"), serving(r, "faq-2")])
    assert (conditions["Ready"].status, conditions["Ready"].reason) == ("False", "Progressing")
    leaving = serving("old")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    _, conditions = derive(pods=lambda r: [leaving, serving(r, "faq-2")])
    assert conditions["Ready"].status == "True"


def test_one_broken_pod_of_several_does_not_take_ready_away(derive):
    _, conditions = derive(
        spec={"replicas": 2},
        pods=lambda r: [serving(r), pod(r, name="faq-2", fetch=last_words("ModelUnreachable"))],
    )
    assert conditions["Ready"].status == "True"
    assert "1 of 2 pods" in conditions["Ready"].message
    assert "The way out." in conditions["Ready"].message


def test_an_ingress_without_address_is_pending(derive):
    _, conditions = derive(pods=lambda r: [serving(r)], ingress=None)
    assert conditions["Ready"].reason == conditions["Exposed"].reason == "IngressPending"
    assert conditions["Available"].status == "True"


def test_a_cluster_internal_model_is_ready_without_url(derive):
    status, conditions = derive(
        spec={"exposure": "ClusterInternal"}, pods=lambda r: [serving(r)], ingress=None
    )
    assert conditions["Ready"].status == "True"
    assert conditions["Exposed"].reason == "ClusterInternal"
    assert "faq.default.svc" in conditions["Exposed"].message
    assert "url" not in status.fields


def test_a_wrong_certificate_is_told(derive):
    problem = Finding(Reason.CERTIFICATE_INVALID, "Secret mine: for another host", "Replace it.")
    _, conditions = derive(
        spec={"ingress": {"tls": {"secretName": "mine"}}},
        pods=lambda r: [serving(r)],
        certificate_problem=problem,
    )
    assert conditions["Ready"].reason == conditions["Certificate"].reason == "CertificateInvalid"


@pytest.mark.parametrize(("state", "status"), [("True", "True"), ("False", "False")])
def test_the_state_of_a_cert_manager_certificate_is_mirrored(derive, state, status):
    certificate = {"status": {"conditions": [{"type": "Ready", "status": state, "message": "m"}]}}
    _, conditions = derive(
        spec={"ingress": {"tls": {"issuerRef": {"name": "i"}}}}, certificate=certificate
    )
    assert conditions["Certificate"].status == status


def test_a_refused_route_is_told(derive):
    accepted = {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners"}
    route = {"status": {"parents": [{"conditions": [{**accepted, "message": "no."}]}]}}
    spec = {"gateway": {"parentRef": {"name": "public"}, "hostname": "faq.example.com"}}
    _, conditions = derive(spec=spec, pods=lambda r: [serving(r)], route=route)
    assert conditions["Ready"].reason == "RouteRejected"
    assert "NotAllowedByListeners" in conditions["Ready"].message


def test_missing_metrics_do_not_take_ready_away(derive):
    broken = {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric"}
    autoscaler = {"status": {"conditions": [{**broken, "message": "no metrics API"}]}}
    _, conditions = derive(
        spec={"autoscaling": {"maxReplicas": 3}},
        pods=lambda r: [serving(r)],
        autoscaler=autoscaler,
    )
    assert conditions["Ready"].status == "True"
    assert conditions["Autoscaling"].reason == "MetricsMissing"


def test_zero_replicas_are_told(derive):
    _, conditions = derive(spec={"replicas": 0})
    assert conditions["Ready"].reason == "ScaledToZero"


def test_a_problem_of_applying_comes_first(derive):
    problem = Finding(Reason.NAME_TAKEN, "Service faq exists already and belongs to nobody", "Go.")
    _, conditions = derive(pods=lambda r: [serving(r)], problem=problem)
    assert conditions["Ready"].reason == "NameTaken"
    assert conditions["Available"].status == "True"


def test_a_canary_that_cannot_be_routed_is_told(derive):
    status, conditions = derive(
        spec={"canary": {"modelURI": "https://h/m2", "weight": 10}}, pods=lambda r: [serving(r)]
    )
    assert conditions["Canary"].reason == "CanaryUnsupported"
    assert conditions["Ready"].status == "True"
    assert status.fields["canary"]["weight"] == 0


def test_a_model_without_auth_says_so(derive):
    status, _ = derive(spec={"auth": {"mode": "None"}})
    assert status.fields["auth"] == "None"
    assert "keysSecretName" not in status.fields


def test_the_transition_time_changes_with_the_status_only():
    old = merge_conditions(
        [], [Condition("Ready", "False", Reason.PROGRESSING, "a")], generation=1, now="t1"
    )
    same = merge_conditions(
        old, [Condition("Ready", "False", Reason.LOAD_FAILED, "b")], generation=2, now="t2"
    )
    other = merge_conditions(
        same, [Condition("Ready", "True", Reason.READY, "c")], generation=2, now="t3"
    )
    assert [c[0]["lastTransitionTime"] for c in (old, same, other)] == ["t1", "t1", "t3"]


def test_last_words_are_found_behind_log_lines(derive):
    said = 'INFO starting\n{"reason": "ScriptFailed", "message": "m", "hint": "h"}\n'
    ended = {"state": {"terminated": {"exitCode": 1, "message": said}}}
    _, conditions = derive(pods=lambda r: [pod(r, fetch=FETCHED, scorer=ended)])
    assert conditions["Ready"].reason == "ScriptFailed"


def test_a_reason_that_is_not_on_the_list_is_a_crash(derive):
    _, conditions = derive(pods=lambda r: [pod(r, scorer=last_words("Surprise"))])
    assert conditions["Ready"].reason == "CrashLoop"
    assert "Surprise" in conditions["Ready"].message
