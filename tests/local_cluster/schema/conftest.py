"""Fixtures for the schema tests: writes that a Kubernetes 1.36 server answered, and schemas by apiVersion and kind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local_cluster.schema import Catalog, Schema, apply_defaults, crd_schema

_RECORDED = Path(__file__).with_name("recorded_writes.jsonl.gz")
_CRD = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition")


@cache
def recorded_writes() -> dict[int, dict[str, Any]]:
    lines = gzip.decompress(_RECORDED.read_bytes()).decode().splitlines()
    return {entry["step"]: entry for entry in map(json.loads, lines)}


@cache
def recorded_crd() -> dict[str, Any]:
    first = next(e for e in recorded_writes().values() if e["response"]["kind"] == _CRD[2])
    schema = Catalog.builtin().schema(*_CRD)
    assert schema is not None
    return apply_defaults(first["request"], schema, *_CRD)


@cache
def find_schema(api_version: str, kind: str) -> Schema:
    group, _, version = api_version.rpartition("/")
    if group == "mlscoring.io":
        return crd_schema(recorded_crd(), version)
    found = Catalog.builtin().schema(group, version, kind)
    assert found is not None, (api_version, kind)
    return found


@pytest.fixture(scope="session")
def writes() -> dict[int, dict[str, Any]]:
    return recorded_writes()


@pytest.fixture(scope="session")
def schema_of() -> Callable[[str, str], Schema]:
    return find_schema


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recorded_write" in metafunc.fixturenames:
        entries = [entry for entry in recorded_writes().values() if entry["code"] < 300]
        ids = [f"{entry['step']}-{entry['response']['kind']}" for entry in entries]
        metafunc.parametrize("recorded_write", entries, ids=ids)
