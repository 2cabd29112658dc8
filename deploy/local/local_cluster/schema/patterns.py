"""Regular expressions as a real server understands them.

Kubernetes is written in Go, whose engine is RE2: no look-around, `$` is the very end, and a hostile pattern or text costs linear time.
Python's `re` differs in all three, so patterns of CRDs and rules go through RE2 itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # the wheel carries no stubs

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


class PatternError(ValueError):
    """A pattern that RE2 does not accept."""


@lru_cache(maxsize=2048)
def compile_pattern(text: str) -> Any:
    """Compile a pattern once.

    Raises:
        PatternError: it is no pattern.
    """
    try:
        return re2.compile(text, options=_OPTIONS)
    except re2.error as err:
        reason = err.args[0] if err.args else err
        raise PatternError(reason.decode() if isinstance(reason, bytes) else str(reason)) from err
