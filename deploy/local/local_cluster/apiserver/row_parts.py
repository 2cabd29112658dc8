"""What the rows of many types have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local_cluster.apiserver.clock import format_age
from local_cluster.apiserver.resources import Manifest

Cells = list[Any]
Printer = Callable[[Manifest], Cells]
NONE = "<none>"


def show_age(obj: Manifest) -> str:
    """Show how old an object is."""
    return format_age(obj["metadata"].get("creationTimestamp"))


def read_name(obj: Manifest) -> str:
    """Give the name of an object."""
    return str(obj["metadata"]["name"])


def join_containers(template: Manifest | None) -> tuple[str, str]:
    """Join names and images of the containers of a pod template."""
    containers = ((template or {}).get("spec") or {}).get("containers") or ()
    return (
        ",".join(c.get("name", "") for c in containers),
        ",".join(c.get("image", "") for c in containers),
    )


def join_labels(labels: Manifest | None) -> str:
    """Join labels as tables show them."""
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or NONE
