"""What makes a revision: the inputs of the pod template, and never the code that makes a template of them.

An operator of another version may build another template of the same inputs. The revision stays, and with it the template
that is there already (docs/adr/0002-an-operator-upgrade-rolls-no-pods.md).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from typing import Any

from scoring_operator.api import Canary, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.resources import build_resources
from scoring_operator.settings import Settings

# Fields of the typed model that shape its pods as they are. A test compares this list with the builder.
_OF_SPEC = (
    "model_uri",
    "sha256",
    "framework",
    "device",
    "storage",
    "trust_pickle",
    "precision",
    "image_pull_secrets",
    "env",
    "node_selector",
    "tolerations",
    "affinity",
    "priority_class_name",
    "automount_service_account_token",
    "pod_labels",
    "pod_annotations",
    "ca_bundle",
    "signature_key",
    "startup_seconds",
    "batching",
    "limits",
    "test",
    "rollout_mark",
)
_OF_SETTINGS = (
    "model_cache_path",
    "install_requirements",
    "run_as_user",
    "pre_stop_seconds",
    "drain_seconds",
)


def derive_revision(model: ScoringModel, settings: Settings, canary: Canary | None = None) -> str:
    """Hash of everything that decides what a pod serves: two pods of one revision answer alike.

    Applying an old YAML gives the old revision again, and with it the old ReplicaSet.

    Returns:
        Ten hexadecimal digits.
    """
    inputs = derive_inputs(model, settings, canary)
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def derive_inputs(model: ScoringModel, settings: Settings, canary: Canary | None) -> Manifest:
    """The inputs of a pod template by name.

    What has its default is left out: a field that a later version adds does not make new revisions of all models.
    """
    inputs = {**_changed(model, _OF_SPEC), **_changed(settings, _OF_SETTINGS)}
    if canary:
        inputs |= {"canary": True, "model_uri": canary.model_uri}
        inputs.pop("sha256", None)
        if canary.sha256:
            inputs["sha256"] = canary.sha256
    # As they are after spec and settings have met, whoever said them.
    inputs["image"] = model.image or settings.image_for(
        device=model.device, framework=model.framework
    )
    inputs["resources"] = build_resources(model, settings, gpu=True)
    inputs["keys"] = names.keys_secret_name(model)
    if settings.install_requirements:
        inputs["pip_index_url"] = settings.pip_index_url
    if settings.workload_identity and model.storage.service_account_name:
        inputs["workload_identity"] = True
    if model.device == "gpu" and settings.gpu_tolerations != Settings().gpu_tolerations:
        inputs["gpu_tolerations"] = settings.gpu_tolerations
    return inputs


def _changed(value: Any, wanted: tuple[str, ...] | None = None) -> Manifest:
    """The fields of a dataclass that do not have their defaults, nested ones alike."""
    found: Manifest = {}
    for each in fields(value):
        if wanted is not None and each.name not in wanted:
            continue
        held = getattr(value, each.name)
        if held in (each.default, _made(each.default_factory)):
            continue
        found[each.name] = _changed(held) if is_dataclass(held) else held
    return found


def _made(factory: Any) -> Any:
    return factory() if callable(factory) else None
