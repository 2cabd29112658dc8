"""Text in a container's spec: ``$(NAME)`` references and paths that become local ones. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_PROCESS_TMP = "/tmp"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; ``$$`` is a dollar, an unknown name stays as it is.

    See https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    """

    def substitute(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(substitute, text)


class PathRewriter:
    """Replaces paths inside a container by the folders that stand for them on this machine.

    A path counts only as a whole: ``/mnt/model`` is found in ``--dir=/mnt/model/x`` and in
    ``file:///mnt/model``, but not in ``/data/mnt/model``, ``/mnt/models`` or ``http://h/mnt/model``.
    ``/tmp`` is replaced only where it is the whole text: programs reach it by TMPDIR, and files of
    this machine often lie in ``/tmp``.

    Args:
        paths: local paths by path in the container.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = {inside.rstrip("/") or "/": local for inside, local in paths.items()}
        inner = [path for path in self._paths if path not in (_PROCESS_TMP, "/")]
        # The longest first, so that a volume mounted inside another is not taken for its parent.
        options = "|".join(re.escape(path) for path in sorted(inner, key=len, reverse=True))
        self._pattern = (
            re.compile(rf"(?:(?<![\w.\-/])|(?<=file://))(?:{options})(?![\w.\-])")
            if inner
            else None
        )

    def __call__(self, text: str) -> str:
        """Rewrite all paths in a text."""
        if text.rstrip("/") == _PROCESS_TMP and _PROCESS_TMP in self._paths:
            return self._paths[_PROCESS_TMP]
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._paths[match[0]], text)

    def resolve(self, path: str) -> str | None:
        """The local path of a path in the container, None where no volume holds it."""
        for inside in sorted(self._paths, key=len, reverse=True):
            if path == inside or path.startswith(inside.rstrip("/") + "/"):
                return self._paths[inside] + path[len(inside) :]
        return None
