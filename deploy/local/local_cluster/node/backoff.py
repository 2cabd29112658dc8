"""Restart delays as the kubelet computes them. No clock of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RestartBackoff:
    """Waiting time between a container's end and its next start.

    The first restart is immediate; then the wait doubles from the initial value to thirty times
    that (10 s to 5 min by default). It starts over when a container ran for twice the maximum.
    See https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy

    Args:
        initial_seconds: the first wait.
    """

    initial_seconds: float = 10.0
    _current: float = 0.0
    _last_step: float = 0.0

    @property
    def max_seconds(self) -> float:
        """The longest wait."""
        return self.initial_seconds * 30

    def next_delay(self, finished: float) -> float:
        """The seconds to wait, counted from the moment the container ended.

        Args:
            finished: that moment, on any clock that only goes forward.
        """
        if self._current and finished - self._last_step > 2 * self.max_seconds:
            self._current = 0.0
        delay = self._current
        self._current = min(self.max_seconds, delay * 2) if delay else self.initial_seconds
        self._last_step = finished + delay
        return delay

    def reset(self) -> None:
        """Forget all failures."""
        self._current = 0.0
