"""What is shipped to install the operator: overlays, the scripts for Azure, and that each fits the others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_cluster import ROOT

from scoring_operator.__main__ import build_parser
from scoring_operator.settings import Settings

OVERLAYS = ["aks", "kind", "local", "namespaced"]
SCRIPTS = sorted((ROOT / "deploy" / "azure").glob("*.sh"))
VERSIONS = ["1.35", "1.36", "1.37"]
OF_OTHERS = {"PodMonitor", "Gateway"}


def kubectl() -> str:
    beside = Path(sys.executable).parent / "kubectl"
    return str(beside) if beside.exists() else shutil.which("kubectl") or "kubectl"


def build(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [kubectl(), "kustomize", str(ROOT / "deploy" / folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def settings_of(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return dict(one(manifests, "ConfigMap", "scoring-operator-settings")["data"])


def rules(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_builds_and_is_valid(overlay: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in build(f"overlays/{overlay}"):
        if manifest["kind"] not in OF_OTHERS | {"CustomResourceDefinition"}:
            for version in VERSIONS:
                validator.validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_every_overlay_are_accepted(overlay: str) -> None:
    data = settings_of(build(f"overlays/{overlay}"))
    Settings.from_env({**data, "POD_NAMESPACE": "scoring-system"})
    source = (ROOT / "operator/scoring_operator/settings.py").read_text()
    for name in data:
        assert re.sub(r"^DEFAULT_(CPU|MEMORY)_", "", name) in source, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_arguments_of_every_overlay_are_known(overlay: str) -> None:
    deployment = one(build(f"overlays/{overlay}"), "Deployment", "scoring-operator")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = [a.replace("$(POD_NAMESPACE)", "models") for a in container["args"]]
    options = build_parser().parse_args(arguments)
    assert options.leader_elect
    assert options.namespace == ("models" if overlay == "namespaced" else None)


def test_the_namespaced_operator_has_no_permission_outside_its_namespace() -> None:
    manifests = build("overlays/namespaced")
    kinds = {m["kind"] for m in manifests}
    assert not kinds & {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Namespace",
    }
    assert {m["metadata"]["namespace"] for m in manifests} == {"models"}
    for manifest in manifests:
        for subject in manifest.get("subjects", ()):
            assert subject["namespace"] == "models"


def test_the_namespaced_role_is_the_cluster_role_without_what_belongs_to_the_cluster() -> None:
    everywhere = rules(one(build("base"), "ClusterRole", "scoring-operator"))
    here = rules(one(build("overlays/namespaced"), "Role", "scoring-operator"))
    missing = {(resource, verb) for _, resource, verb in everywhere - here}
    assert missing == {("ingressclasses", "list"), ("ingressclasses", "watch")}
    assert here < everywhere


def test_on_aks_models_use_the_gateway_of_the_overlay() -> None:
    manifests = build("overlays/aks")
    settings = Settings.from_env(settings_of(manifests))
    assert settings.gateway is not None
    gateway = one(manifests, "Gateway", settings.gateway.name)
    assert gateway["metadata"]["namespace"] == settings.gateway.namespace
    listeners = {item["name"]: item for item in gateway["spec"]["listeners"]}
    secure = listeners[settings.gateway.section_name]
    plain = listeners[settings.gateway.http_section_name]
    assert (secure["protocol"], secure["port"]) == ("HTTPS", 443)
    assert (plain["protocol"], plain["port"]) == ("HTTP", 80)
    for listener in (secure, plain):
        assert listener["hostname"] == f"*.{settings.base_domain}"
    account = secure["tls"]["options"]["kubernetes.azure.com/tls-cert-service-account"]
    one(manifests, "ServiceAccount", account)
    assert settings.network_policy_from == (gateway["metadata"]["namespace"],)


def test_azure_monitor_finds_the_ports_that_there_are(model: Any) -> None:
    from scoring_operator.manifests import Wishes, build_children, plan_exposure

    manifests = build("overlays/aks")
    settings = Settings()
    given = model()
    children = build_children(given, settings, plan_exposure(given, settings), Wishes())
    pods = {
        "scoring-operator": one(manifests, "Deployment", "scoring-operator"),
        "scoringmodels": next(m for m in children.manifests if m["kind"] == "Deployment"),
    }
    for name, deployment in pods.items():
        monitor = one(manifests, "PodMonitor", name)
        assert monitor["apiVersion"] == "azmonitoring.coreos.com/v1"
        assert (monitor["spec"]["labelLimit"], monitor["spec"]["labelNameLengthLimit"]) == (63, 511)
        template = deployment["spec"]["template"]
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= template["metadata"]["labels"].items()
        ports = {p["name"] for c in template["spec"]["containers"] for p in c.get("ports", ())}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_on_aks_the_operator_survives_the_loss_of_a_node() -> None:
    manifests = build("overlays/aks")
    deployment = one(manifests, "Deployment", "scoring-operator")
    assert deployment["spec"]["replicas"] == 2
    budget = one(manifests, "PodDisruptionBudget", "scoring-operator")
    assert budget["spec"]["maxUnavailable"] == 1
    selector = budget["spec"]["selector"]["matchLabels"]
    assert selector == deployment["spec"]["selector"]["matchLabels"]


def test_the_gpu_pool_of_the_script_is_tolerated_by_models_and_device_plugin() -> None:
    script = (ROOT / "deploy/azure/create.sh").read_text()
    taint = re.search(r"--node-taints (\S+)=(\S+):(\S+)", script)
    assert taint
    wanted = dict(zip(("key", "value", "effect"), taint.groups(), strict=True))
    plugin = list(
        yaml.safe_load_all((ROOT / "deploy/azure/nvidia-device-plugin.yaml").read_text())
    )[-1]
    settings = Settings.from_env(settings_of(build("overlays/aks")))
    for tolerations in (
        settings.gpu_tolerations,
        plugin["spec"]["template"]["spec"]["tolerations"],
    ):
        assert any(wanted.items() <= t.items() for t in tolerations)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_for_azure_are_sound(script: Path) -> None:
    assert len(SCRIPTS) == 2
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.fixture
def azure(tmp_path: Path) -> Any:
    """An `az` and a `kubectl` that write down how they were called, and answer as told."""

    def make(answers: str) -> tuple[dict[str, str], Path]:
        log = tmp_path / "calls"
        for name in ("az", "kubectl"):
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n{answers}\n')
            path.chmod(0o755)
        return {"PATH": f"{tmp_path}:/usr/bin:/bin"}, log

    return make


def test_the_cluster_is_created_step_by_step_and_existing_parts_are_kept(azure: Any) -> None:
    environ, log = azure(
        'case "$*" in "aks show"*--output\\ none) exit 0;; *--query*) echo id;; esac'
    )
    script = str(ROOT / "deploy/azure/create.sh")
    done = subprocess.run(
        [script, "rg", "westeurope"],
        env={**environ, "STORAGE_ACCOUNT": "acct"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert "az aks create" not in calls
    assert "system:serviceaccount:models:model-reader" in calls
    assert "Storage Blob Data Reader" in calls
    assert "nvidia-device-plugin.yaml" in calls


def test_a_group_of_somebody_else_is_not_deleted(azure: Any) -> None:
    environ, log = azure('case "$*" in "group exists"*) echo true;; *tags.purpose*) echo;; esac')
    script = str(ROOT / "deploy/azure/delete.sh")
    done = subprocess.run(
        [script, "rg", "--yes"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "not touched" in done.stderr
    assert "group delete" not in log.read_text()
