from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from scoring_operator.api import Kinds, ScoringModel, model, parse_scoring_model
from scoring_operator.manifests.environment import fetch_environment, serve_environment
from scoring_operator.settings import Settings
from scoring_operator.status import Reason

ROOT = Path(__file__).resolve().parents[2]
CRD = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]
PAGE = (ROOT / "docs" / "scoringmodel.md").read_text()


def walk(schema: dict[str, Any], path: str = ""):
    yield path, schema
    for name, inner in (schema.get("properties") or {}).items():
        yield from walk(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from walk(schema[name], f"{path}[]")


def test_the_crd_stays_readable():
    assert len((ROOT / "crds" / "scoringmodels.yaml").read_text().splitlines()) < 500


def test_every_field_has_a_description():
    missing = [
        path
        for path, schema in walk(SCHEMA)
        if path
        and not path.endswith("[]")
        and path != ".metadata"
        and not schema.get("description")
    ]
    assert missing == []


def test_every_string_list_and_map_of_the_spec_is_bounded():
    unbounded = [
        path
        for path, schema in walk(SPEC, "spec")
        if (schema.get("type") == "string" and "enum" not in schema and "maxLength" not in schema)
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert unbounded == []


def test_every_rule_has_a_message_that_names_a_way_out():
    for path, schema in walk(SCHEMA):
        for rule in schema.get("x-kubernetes-validations") or ():
            assert len(rule["message"]) > 30, (path, rule)


def test_printer_columns_are_those_of_the_design():
    columns = CRD["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [c["name"].upper() for c in columns if not c.get("priority")]
    assert shown == ["FRAMEWORK", "DEVICE", "READY", "REASON", "REPLICAS", "URL", "AGE"]


def test_the_typed_model_has_the_defaults_of_the_crd():
    manifest = {
        "metadata": {"name": "m", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"modelURI": "https://h/m", "framework": "sklearn"},
    }
    bare = parse_scoring_model(manifest)
    manifest["spec"] |= defaults(SPEC)
    assert parse_scoring_model(manifest) == bare


def defaults(schema: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, inner in schema["properties"].items():
        if "default" in inner:
            found[name] = inner["default"]
            if inner.get("properties"):
                found[name] = {**inner["default"], **defaults(inner)}
    return found


def test_every_field_of_the_spec_is_parsed():
    """Each top-level field, set to something else than its default, makes another typed model."""
    others: dict[str, Any] = {
        "modelURI": "file:///other",
        "framework": "onnx",
        "device": "gpu",
        "sha256": "a" * 64,
        "storage": {"secretName": "s"},
        "updatePolicy": "Always",
        "signatureKey": {"secretName": "k"},
        "trustPickle": True,
        "precision": "float16",
        "gpu": {"resourceName": "amd.com/gpu"},
        "image": "i:1",
        "imagePullSecrets": [{"name": "p"}],
        "env": [{"name": "A", "value": "b"}],
        "resources": {"limits": {"cpu": "1"}},
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "p",
        "automountServiceAccountToken": True,
        "podMetadata": {"labels": {"a": "b"}},
        "caBundle": {"secretName": "c"},
        "replicas": 2,
        "autoscaling": {"maxReplicas": 2},
        "rollout": {"strategy": "Recreate"},
        "probes": {"startupSeconds": 20},
        "batching": {"maxSize": 1},
        "limits": {"timeoutSeconds": 1},
        "test": {"request": 1},
        "exposure": "ClusterInternal",
        "ingress": {"host": "a.example.com"},
        "gateway": {"parentRef": {"name": "g"}},
        "auth": {"mode": "None"},
        "canary": {"modelURI": "https://h/2", "weight": 1},
    }
    assert set(others) == set(SPEC["properties"])
    metadata = {"name": "m", "namespace": "n", "uid": "u"}
    base = {"modelURI": "https://h/m", "framework": "sklearn"}
    plain = parse_scoring_model({"metadata": metadata, "spec": base})
    for name, value in others.items():
        parsed = parse_scoring_model({"metadata": metadata, "spec": {**base, name: value}})
        assert parsed != plain, name


def test_every_typed_field_has_its_place_in_the_schema():
    def names_of(cls: type) -> set[str]:
        return {f.name for f in fields(cls)}

    known = {path.rpartition(".")[2].lower() for path, _ in walk(SPEC)}
    nested = [c for c in vars(model).values() if isinstance(c, type) and is_dataclass(c)]
    identity = {"name", "namespace", "uid", "generation", "rollout_mark"}
    renamed = {
        "gpuresourcename": "resourcename",
        "resourcerequests": "requests",
        "resourcelimits": "limits",
        "podlabels": "labels",
        "podannotations": "annotations",
        "tlssecretname": "secretname",
        "issuer": "issuerref",
        "hasexpectation": "expect",
    }
    for cls in nested:
        for field in names_of(cls) - (identity if cls is ScoringModel else set()):
            flat = field.replace("_", "").lower()
            assert renamed.get(flat, flat) in known, (cls.__name__, field)


def test_every_field_is_documented():
    missing = [
        path
        for path, schema in walk(SPEC)
        if path
        and "[]" not in path
        and not path.startswith((".affinity.", ".env.valueFrom"))
        and path.rpartition(".")[2] not in PAGE
    ]
    assert missing == []
    for name in SCHEMA["properties"]["status"]["properties"]:
        assert f"`{name}`" in PAGE, name


def test_the_examples_of_the_page_are_fields_of_the_schema():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) > 10
    for block in blocks:
        check_known(yaml.safe_load(block)["spec"], SPEC, "spec")


def check_known(value: Any, schema: dict[str, Any], path: str) -> None:
    if schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            assert name in schema["properties"], f"{path}.{name}"
            check_known(inner, schema["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            check_known(inner, schema["items"], f"{path}[]")
    elif "enum" in schema:
        assert value in schema["enum"], path


def test_reasons_and_their_page_agree():
    page = (ROOT / "docs" / "reasons.md").read_text()
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == {str(r) for r in Reason}


def test_every_reason_is_given_somewhere():
    package = ROOT / "operator" / "scoring_operator"
    source = "".join(p.read_text() for p in package.rglob("*.py") if p.name not in {"reasons.py"})
    given = set(re.findall(r"Reason\.([A-Z_]+)", source))
    assert given == set(Reason.__members__)


def test_the_scorer_reads_what_the_operator_writes():
    scorer = pytest.importorskip("model_scorer.settings").Settings
    manifest = {
        "metadata": {"name": "m", "namespace": "n", "uid": "u"},
        "spec": {
            "modelURI": "https://h/m",
            "framework": "pytorch",
            "sha256": "a" * 64,
            "trustPickle": True,
            "precision": "float16",
            "limits": {"requestBytes": 7, "timeoutSeconds": 8, "queuedRequests": 9},
            "batching": {"maxSize": 10, "maxDelayMilliseconds": 11},
            "test": {"request": {"input": 1}, "expect": [2]},
        },
    }
    parsed = parse_scoring_model(manifest)
    variables = serve_environment(parsed, None, revision="r", drain_seconds=5)
    environ = {v["name"]: v["value"] for v in variables}
    assert set(environ) <= {f"SCORER_{f.name.upper()}" for f in fields(scorer)}
    read = scorer.from_env(environ)
    assert (read.model_name, read.revision, read.model_sha256) == ("m", "r", "a" * 64)
    assert (read.max_body_bytes, read.timeout_seconds, read.max_queued_requests) == (7, 8, 9)
    assert (read.max_batch_size, read.max_batch_delay_ms, read.trust_pickle) == (10, 11, True)
    assert (read.sample.request, read.sample.expect) == ({"input": 1}, [2])
    fetched = scorer.from_env({v["name"]: v["value"] for v in fetch_environment(parsed, None)})
    assert fetched.model_uri == "https://h/m"


def test_the_environment_is_the_one_of_the_architecture_page():
    page = (ROOT / "docs" / "architecture.md").read_text()
    source = (ROOT / "operator/scoring_operator/manifests/environment.py").read_text()
    for name in set(re.findall(r'"(SCORER_[A-Z0-9_]+)"', source)):
        assert f"`{name}`" in page, name


def test_the_role_covers_every_kind_and_names_no_wildcard():
    documents = list(yaml.safe_load_all((ROOT / "deploy/base/rbac.yaml").read_text()))
    rules = next(d for d in documents if d["kind"] == "ClusterRole")["rules"]
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    assert "*" not in str(granted)
    for kind in (*Kinds.CHILDREN, *Kinds.OPTIONAL_CHILDREN):
        group = kind.api_version.rpartition("/")[0]
        verbs = granted.pop((group, kind.plural))
        assert verbs == {"get", "list", "watch", "create", "patch", "delete"}
    # A pod with other bytes than its revision is deleted.
    granted[("", "pods")].remove("delete")
    for kind in Kinds.OBSERVED:
        assert granted.pop((kind.api_version.rpartition("/")[0], kind.plural)) == {"list", "watch"}
    assert granted.pop(("networking.k8s.io", "ingressclasses")) == {"list", "watch"}
    assert granted.pop(("", "events")) == {"create"}
    assert granted.pop(("mlscoring.io", "scoringmodels")) == {"get", "list", "watch"}
    assert granted.pop(("mlscoring.io", "scoringmodels/status")) == {"patch"}
    assert granted.pop(("mlscoring.io", "scoringmodels/finalizers")) == {"update"}
    assert granted == {}


def test_the_settings_map_holds_settings_only():
    data = yaml.safe_load((ROOT / "deploy/base/settings.yaml").read_text())["data"]
    local = yaml.safe_load((ROOT / "deploy/overlays/local/settings.yaml").read_text())["data"]
    source = (ROOT / "operator/scoring_operator/settings.py").read_text()
    for name in data | local:
        stem = re.sub(r"^DEFAULT_(CPU|MEMORY)_", "", name)
        assert stem in source, name
    assert Settings.from_env(data | local).base_domain == "models.localhost"
