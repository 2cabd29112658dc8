"""Retries: what is weather is tried again, with growing pauses, for as long as there is progress."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from model_scorer.errors import ScorerError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a failed request is repeated.

    Attributes:
        attempts: tries in a row without progress before the error stands.
        first_delay_seconds: pause after the first failure; doubles with each further one.
        max_delay_seconds: longest pause of our own.
        max_retry_after_seconds: longest pause that a server may ask for; beyond it the error stands at once.
    """

    attempts: int = 5
    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30.0
    max_retry_after_seconds: float = 120.0


class TransientError(Exception):
    """A failure that may go away.

    Args:
        error: what to raise when it does not.
        retry_after_seconds: the pause that the server asked for.
        progress: whether the attempt got further than the one before, which sets the count of failures back.
    """

    def __init__(
        self,
        error: ScorerError,
        *,
        retry_after_seconds: float | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_seconds = retry_after_seconds
        self.progress = progress


def run_with_retries(
    action: Callable[[], T], policy: RetryPolicy, *, sleep: Callable[[float], object] = time.sleep
) -> T:
    """Run `action` until it returns, or raises something else than `TransientError`, or the policy's patience ends.

    Raises:
        ScorerError: the error of the last `TransientError`.
    """
    failures = 0
    while True:
        try:
            return action()
        except TransientError as transient:
            failures = 1 if transient.progress else failures + 1
            asked = transient.retry_after_seconds
            if failures >= policy.attempts or (
                asked is not None and asked > policy.max_retry_after_seconds
            ):
                raise transient.error from transient
            delay = min(policy.first_delay_seconds * 2 ** (failures - 1), policy.max_delay_seconds)
            # Jitter: the pods of a Deployment start together and would come back together.
            delay *= random.uniform(0.75, 1.25)
            delay = max(delay, asked or 0.0)
            log.warning(
                "trying again",
                extra={
                    "cause": transient.error.message,
                    "failures": failures,
                    "delay_seconds": round(delay, 2),
                },
            )
            sleep(delay)
