"""The operator: ScoringModel resources in, Kubernetes objects and status out.

Rooms, from the edge to the core: `app` (the process: kopf, queue, workers, metrics), `reconcile` (one model from spec to
status), `cluster` (the only room that talks to the Kubernetes API), `status` and `manifests` (pure), `api` (the typed
ScoringModel) and `settings`.
"""

__version__ = "0.1.0"
