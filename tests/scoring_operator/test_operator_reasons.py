"""Each reason of the closed list is brought about by a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from operator_cluster import eventually, running_api, running_operator, scoring_model
from proof_gate import Call, Fault, Gate

from scoring_operator.api import Key, Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings
from scoring_operator.status import Observed, Reason, derive_status

HERE = Path(__file__).resolve().parent


def test_every_reason_is_asserted_by_a_test() -> None:
    files = [*HERE.glob("test_operator_*.py"), *HERE.parent.joinpath("e2e").glob("test_*.py")]
    text = "".join(file.read_text() for file in files)
    missing = [r.name for r in Reason if f'"{r}"' not in text and f"Reason.{r.name}" not in text]
    assert missing == []


async def test_a_permission_that_the_operator_lacks_is_named(tmp_path: Path) -> None:
    """What the API server refuses with 403 is told with the child that it was about, and done once it is allowed."""
    allowed = False

    def plan(call: Call) -> Fault | None:
        refused = call.path.endswith("/poddisruptionbudgets") and call.method == "POST"
        return Fault("status", 403) if refused and not allowed else None

    async with running_api(tmp_path) as api:
        gate = Gate(api.kubeconfig, plan=plan)
        async with gate.open(tmp_path) as kubeconfig, running_operator(kubeconfig) as operator:
            await api.create(scoring_model())

            async def told() -> dict[str, str]:
                condition = await api.ready_condition("faq")
                return condition if condition.get("reason") == Reason.FORBIDDEN else {}

            condition = await eventually(told)
            assert condition["status"] == "False"
            assert "PodDisruptionBudget faq" in condition["message"]
            assert "ClusterRole" in condition["message"]
            # One refused child keeps no other from being made.
            assert await api.get(Kinds.INGRESS, "faq")
            allowed = True
            for key in [m["metadata"] for m in await api.list(Kinds.SCORING_MODEL)]:
                operator.queue.add(Key(key["namespace"], key["name"]))
            await eventually(lambda: api.get(Kinds.DISRUPTION_BUDGET, "faq"))


@pytest.mark.parametrize(
    ("tls", "issued", "reason"),
    [
        ({"secretName": "mine"}, None, Reason.PROVIDED),
        ({"issuerRef": {"name": "i"}}, None, Reason.CERTIFICATE_PENDING),
        ({"issuerRef": {"name": "i"}}, "False", Reason.CERTIFICATE_PENDING),
        ({"issuerRef": {"name": "i"}}, "True", Reason.ISSUED),
        ({}, None, Reason.SELF_SIGNED),
    ],
)
def test_the_certificate_condition_says_where_it_comes_from(model, tls, issued, reason) -> None:
    settings = Settings(base_domain="models.example.com")
    given = model(ingress={"tls": tls})
    exposure = plan_exposure(given, settings)
    certificate = {"status": {"conditions": [{"type": "Ready", "status": issued}]}}
    observed = Observed(certificate=certificate if issued else None)
    children = build_children(given, settings, exposure, Wishes())
    status = derive_status(given, children, exposure, observed)
    found = next(c for c in status.conditions if c.type == "Certificate")
    assert found.reason == reason
    assert (found.status == "True") == (reason is not Reason.CERTIFICATE_PENDING)
