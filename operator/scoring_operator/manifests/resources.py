"""What a container asks for and may use: the spec's words over the operator's defaults."""

from __future__ import annotations

from scoring_operator.api import Manifest, ScoringModel
from scoring_operator.settings import Settings


def build_resources(model: ScoringModel, settings: Settings, *, gpu: bool) -> Manifest:
    """Requests and limits of a container.

    Args:
        model: the ScoringModel.
        settings: whose defaults hold where the spec says nothing.
        gpu: whether the container gets the model's GPU.
    """
    requests = {**settings.requests, **model.resource_requests}
    limits = {**settings.limits, **model.resource_limits}
    for name, amount in model.resource_limits.items():
        # A limit without a request is meant to be both, as Kubernetes has it for pods.
        if name not in model.resource_requests:
            requests[name] = amount
    for name, amount in model.resource_requests.items():
        # A default limit must not undercut what the user asks for.
        if name in settings.limits and name not in model.resource_limits:
            limits[name] = amount
    device = model.gpu_resource_name
    if model.device == "gpu" and gpu:
        requests[device] = limits[device] = limits.get(device, "1")
    else:
        requests.pop(device, None)
        limits.pop(device, None)
    return {"requests": requests, "limits": limits}
