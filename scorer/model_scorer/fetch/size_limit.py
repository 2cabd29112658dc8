"""What the model volume may hold: `spec.storage.sizeLimit`, kept before the kubelet evicts the pod for it."""

import re

from model_scorer.errors import DiskFull, InvalidSpec

_MIB = 1 << 20
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?:(?P<unit>[KMGTPE]i|[kMGTPEm])|[eE](?P<power>[+-]?\d{1,2}))?"
)
_UNITS = (
    {"": 1.0, "m": 1e-3, "k": 1e3}
    | {letter: 1000.0**power for power, letter in enumerate("MGTPE", 2)}
    | {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}
)


class SizeLimit:
    """The limit of the model volume; everything that is written there counts, as the kubelet counts it.

    Args:
        limit_bytes: 0 for none.
        text: the limit as the spec says it.
    """

    def __init__(self, limit_bytes: int = 0, text: str = "") -> None:
        self._limit = limit_bytes
        self._text = text

    def __bool__(self) -> bool:
        return self._limit > 0

    def check(self, size: int, what: str = "The model") -> None:
        """Refuse what is too large.

        Args:
            size: bytes on the volume, or those that are announced for it.
            what: takes them; the subject of the message.

        Raises:
            DiskFull: more than the limit.
        """
        if self._limit and size > self._limit:
            raise DiskFull(
                f"{what} needs {size / _MIB:.1f} MiB on the model volume, spec.storage.sizeLimit is {self._text}.",
                hint="Raise spec.storage.sizeLimit, or make the model smaller.",
            )


def parse_size_limit(text: str) -> SizeLimit:
    """Read a Kubernetes quantity, such as `10Gi`, `500M` or `1e9`; empty: no limit.

    Raises:
        InvalidSpec: no quantity, or nothing fits into it.
    """
    if not text:
        return SizeLimit()
    match = _QUANTITY.fullmatch(text)
    if match:
        factor = _UNITS[match["unit"] or ""] * 10.0 ** int(match["power"] or 0)
        if limit := int(float(match["number"]) * factor):
            return SizeLimit(limit, text)
    raise InvalidSpec(
        f"SCORER_MODEL_SIZE_LIMIT must be a quantity above 0, such as 10Gi, got {text!r}.",
        hint="Correct spec.storage.sizeLimit.",
    )
