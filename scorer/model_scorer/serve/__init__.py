"""`serve`: the processes, the queue and the routes around a runtime.

The supervisor (probes, metrics, accepting, signals) forks a loader, which loads the model once and forks the workers;
each worker answers HTTP on connections that the supervisor hands it. `supervisor.py` has the picture.
"""

from __future__ import annotations

from model_scorer.settings import Settings


def serve(settings: Settings) -> int:
    """Serve the model in the settings' folder until SIGTERM; returns the exit code.

    Raises:
        ScorerError: the model could not be brought to readiness.
    """
    from model_scorer.serve.supervisor import run_supervisor

    return run_supervisor(settings)
