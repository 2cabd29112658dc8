"""Hypothesis profiles: a thousand cases in every run, 200,000 with `--hypothesis-profile=long`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "long",
    max_examples=20_000,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
