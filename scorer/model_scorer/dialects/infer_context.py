"""What an Open Inference answer must repeat or obey of its request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InferContext:
    """See the module; shared by requests that differ in their values alone.

    Attributes:
        request_id: the client's; empty: the answer gets a new one.
        asked: names as the client wrote them, by the runtime's names.
        binary_default: `binary_data_output` of the request.
        binary: per output, overriding the default; by the runtime's names.
    """

    request_id: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)
    binary_default: bool = False
    binary: Mapping[str, bool] = field(default_factory=dict)


PLAIN = InferContext()
