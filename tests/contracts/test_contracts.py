"""What two programs share is written down twice; each pair is compared here."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster.schema import apply_defaults, crd_schema, prune, validate, validate_crd
from model_scorer import errors
from model_scorer.settings import Settings as ScorerSettings
from model_scorer.settings import variable_of
from scoring_operator.api import Kinds, parse_scoring_model
from scoring_operator.manifests import names
from scoring_operator.manifests.environment import fetch_environment, serve_environment
from scoring_operator.settings import DEFAULT_IMAGE
from scoring_operator.status.reasons import TERMINATION_REASONS, Reason

ROOT = Path(__file__).resolve().parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
EXAMPLES = sorted(ROOT.glob("examples/*/scoringmodel*.yaml"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

FULL_SPEC: dict[str, Any] = {
    "modelURI": "https://models.example.com/faq/3/",
    "framework": "pytorch",
    "device": "gpu",
    "sha256": "0" * 64,
    "precision": "bfloat16",
    "trustPickle": True,
    "test": {"request": {"data": [[1]]}, "expect": [0]},
    "batching": {"maxSize": 8, "maxDelayMilliseconds": 3},
    "limits": {"requestBytes": 1000, "timeoutSeconds": 7, "queuedRequests": 9},
}


def stored(spec: dict[str, Any], name: str = "faq") -> dict[str, Any]:
    """A ScoringModel as the API server stores it: pruned, defaulted, validated."""
    manifest = {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": name, "namespace": "default", "uid": "u", "generation": 1},
        "spec": spec,
    }
    schema = crd_schema(CRD, "v1")
    kind = ("mlscoring.io", "v1", "ScoringModel")
    pruned, unknown = prune(manifest, schema)
    assert unknown == []
    defaulted = apply_defaults(pruned, schema, *kind)
    assert validate(defaulted, schema, *kind, old=None) == []
    return dict(defaulted)


def scorer_variables() -> dict[str, Any]:
    """Every SCORER_ variable and its default."""
    parameters = inspect.signature(ScorerSettings).parameters.values()
    return {variable_of(parameter.name): parameter.default for parameter in parameters}


def test_the_crd_is_a_valid_structural_schema_of_readable_size() -> None:
    assert validate_crd(CRD) == []
    assert len((ROOT / "crds" / "scoringmodels.yaml").read_text().splitlines()) < 500


def test_the_scorer_reads_what_the_operator_writes() -> None:
    model = parse_scoring_model(stored(FULL_SPEC))
    for variables in (
        fetch_environment(model, None),
        serve_environment(model, None, revision="abc", drain_seconds=4),
    ):
        environ = {variable["name"]: variable["value"] for variable in variables}
        assert set(environ) <= set(scorer_variables())
        ScorerSettings.from_env(environ)
    settings = ScorerSettings.from_env(environ)
    assert settings.framework == "pytorch"
    assert settings.device == "gpu"
    assert settings.precision == "bfloat16"
    assert settings.max_batch_size == 8
    assert settings.max_batch_delay_ms == 3
    assert settings.max_body_bytes == 1000
    assert settings.timeout_seconds == 7
    assert settings.max_queued_requests == 9
    assert settings.trust_pickle is True
    assert settings.revision == "abc"
    assert settings.drain_seconds == 4
    assert settings.sample is not None
    assert (settings.sample.request, settings.sample.expect) == ({"data": [[1]]}, [0])


def test_the_crds_defaults_are_the_scorers_defaults() -> None:
    model = parse_scoring_model(stored({"modelURI": "https://x/y", "framework": "sklearn"}))
    variables = serve_environment(model, None, revision="", drain_seconds=5)
    settings = ScorerSettings.from_env({item["name"]: item["value"] for item in variables})
    defaults = ScorerSettings()
    for name in (
        *("device", "precision", "max_body_bytes", "timeout_seconds", "max_queued_requests"),
        *("max_batch_size", "max_batch_delay_ms", "auth_mode", "keys_dir", "model_dir"),
    ):
        assert getattr(settings, name) == getattr(defaults, name), name


def test_ports_are_the_same_on_both_sides() -> None:
    assert ScorerSettings().port == names.HTTP_PORT
    assert ScorerSettings().probe_port == names.PROBE_PORT


def test_the_architecture_page_lists_every_setting_of_the_scorer() -> None:
    listed = set(re.findall(r"^\| `(SCORER_[A-Z0-9_]+)`", ARCHITECTURE, re.MULTILINE))
    assert listed == set(scorer_variables())


def test_the_operator_knows_every_reason_that_the_scorer_may_end_with() -> None:
    said = {
        item.reason
        for item in vars(errors).values()
        if inspect.isclass(item)
        and issubclass(item, errors.ScorerError)
        and item is not errors.ScorerError
    }
    assert said == set(TERMINATION_REASONS)


def test_every_reason_is_documented() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text()
    sections = set(re.findall(r"^#+ `?(\w+)`?\s*$", text, re.MULTILINE))
    assert {str(reason) for reason in Reason} <= sections


def properties(schema: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, child in (schema.get("properties") or {}).items():
        found.add(f"{prefix}{name}")
        found |= properties(child, f"{prefix}{name}.")
        found |= properties(child.get("items") or {}, f"{prefix}{name}[].")
    return found


def test_every_field_has_a_description_and_is_documented() -> None:
    spec = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    text = (ROOT / "docs" / "scoringmodel.md").read_text()
    for name, child in spec["properties"].items():
        assert child.get("description"), name
        assert f"`{name}" in text or f"{name}:" in text, f"docs/scoringmodel.md lacks {name}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_are_accepted(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    assert manifest["apiVersion"] == "mlscoring.io/v1"
    model = parse_scoring_model(stored(manifest["spec"], manifest["metadata"]["name"]))
    assert model.framework in ("sklearn", "pytorch", "python")


def documents(folder: Path) -> list[dict[str, Any]]:
    return [
        document
        for path in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]


def test_the_operators_role_covers_the_kinds_it_handles_and_has_no_wildcards() -> None:
    rules = [
        rule
        for document in documents(ROOT / "deploy" / "base")
        if document["kind"] in ("ClusterRole", "Role")
        and "operator" in document["metadata"]["name"]
        for rule in document["rules"]
    ]
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    for kind in (*Kinds.CHILDREN, *Kinds.OPTIONAL_CHILDREN):
        group = kind.api_version.rpartition("/")[0]
        assert {"create", "patch", "delete"} <= granted[(group, kind.plural)], kind
    for kind in (*Kinds.OBSERVED, Kinds.SCORING_MODEL):
        group = kind.api_version.rpartition("/")[0]
        assert {"list", "watch"} <= granted[(group, kind.plural)], kind
    assert "patch" in granted[("mlscoring.io", "scoringmodels/status")]


def test_the_local_cluster_knows_the_images_that_the_manifests_name() -> None:
    known = yaml.safe_load((ROOT / "deploy/local/local_cluster/images/images.yaml").read_text())[
        "images"
    ]
    used = {DEFAULT_IMAGE}
    for document in documents(ROOT / "deploy" / "base"):
        if document["kind"] == "Deployment":
            used |= {c["image"] for c in document["spec"]["template"]["spec"]["containers"]}
    assert {image.partition(":")[0] for image in used} <= set(known)
