"""checkov finds exactly what docs/security-exceptions.md explains; it runs wherever checkov is on the PATH."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from operator_cluster import ROOT
from proof_specs import SPECS
from test_proof_schemas import children

EXPLAINED = set(
    re.findall(r"^\| `(CKV\w+)` \|", (ROOT / "docs/security-exceptions.md").read_text(), re.M)
)


def test_every_exception_has_a_reason() -> None:
    assert len(EXPLAINED) >= 5


@pytest.mark.skipif(shutil.which("checkov") is None, reason="checkov is not on the PATH")
def test_checkov_finds_only_what_is_explained(tmp_path: Path) -> None:
    for case, spec in SPECS.items():
        documents = children(spec, "k8s.io/ingress-nginx")
        for document in documents:
            # checkov wants no object in the default namespace, which is the user's decision.
            document["metadata"]["namespace"] = "models"
        (tmp_path / f"{case}.yaml").write_text(yaml.safe_dump_all(documents))
    base = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "deploy" / "base")],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "operator.yaml").write_text(base.stdout)
    done = subprocess.run(
        [
            *("checkov", "--directory", str(tmp_path), "--framework", "kubernetes"),
            *("--output", "json", "--quiet", "--compact"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 1000
    assert {item["check_id"] for item in report["results"]["failed_checks"]} == EXPLAINED
