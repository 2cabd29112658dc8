"""The image map: which local command stands for which image."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

_REFERENCE = re.compile(
    r"(?P<name>(?:[a-zA-Z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-f]{32,}))?"
)


class ImageMapError(Exception):
    """The image map cannot be used; the message names the file, the entry and the way out."""


class InvalidImageNameError(Exception):
    """An image reference that no registry could resolve."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image would bring with it.

    Args:
        reference: the full reference, as container runtimes show it.
        entrypoint: the ENTRYPOINT.
        cmd: the CMD.
        env: the ENV, before expansion of ``$(POD_IP)`` and the like.
        version: an optional note of what this is, part of the image id.
    """

    reference: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    @property
    def image_id(self) -> str:
        """A digest that changes with what the map says of this image."""
        text = json.dumps([self.entrypoint, self.cmd, dict(self.env), self.version])
        name = self.reference.partition("@")[0].rpartition(":")[0] or self.reference
        return f"{name}@sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def normalize_reference(image: str) -> str:
    """Complete a reference as container runtimes do: registry, ``library/`` and ``latest``.

    Raises:
        InvalidImageNameError: it is no image reference.
    """
    match = _REFERENCE.fullmatch(image)
    if match is None:
        raise InvalidImageNameError(
            f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": '
            "invalid reference format"
        )
    name = _full_name(match["name"])
    suffix = f":{match['tag']}" if match["tag"] else ""
    suffix += f"@{match['digest']}" if match["digest"] else ""
    return name + (suffix or ":latest")


def _full_name(name: str) -> str:
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


class ImageMap:
    """Finds images by reference: exact tag or digest first, then the name alone.

    Args:
        images: entries of the map by image name.
    """

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = dict(images)

    def find(self, image: str) -> Image | None:
        """The image of that reference, or None where a registry would say "not found".

        Raises:
            InvalidImageNameError: the text is no image reference.
        """
        reference = normalize_reference(image)
        match = _REFERENCE.fullmatch(image)
        assert match is not None
        name = match["name"]
        candidates = [reference, image, name, _full_name(name)]
        if match["tag"]:
            candidates.insert(2, f"{name}:{match['tag']}")
        for candidate in candidates:
            found = self._images.get(candidate)
            if found is not None:
                return Image(reference, found.entrypoint, found.cmd, found.env, found.version)
        return None


def load_image_map(path: Path | None = None) -> ImageMap:
    """Read the image map, by default the one in the package, extended by a file.

    Args:
        path: a YAML file whose ``images`` add to the built-in ones and replace them by name.

    Raises:
        ImageMapError: the file cannot be read or an entry is malformed.
    """
    builtin = resources.files("local_cluster.images").joinpath("images.yaml")
    images = _parse(builtin.read_text(encoding="utf-8"), "images.yaml")
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as err:
            raise ImageMapError(f"cannot read the image map {path}: {err.strerror}") from err
        images |= _parse(text, str(path))
    return ImageMap(images)


def _parse(text: str, origin: str) -> dict[str, Image]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ImageMapError(f"{origin} is no YAML: {err}") from err
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ImageMapError(f"{origin}: expected a mapping 'images' of image names to commands")
    return {str(name): _parse_image(str(name), entry, origin) for name, entry in entries.items()}


def _parse_image(name: str, entry: Any, origin: str) -> Image:
    where = f"{origin}: image {name}"
    if not isinstance(entry, dict):
        raise ImageMapError(f"{where}: expected a mapping with entrypoint, cmd, env, version")
    unknown = set(entry) - {"entrypoint", "cmd", "env", "version"}
    if unknown:
        raise ImageMapError(f"{where}: unknown {', '.join(sorted(unknown))}")
    env = entry.get("env") or {}
    if not isinstance(env, dict):
        raise ImageMapError(f"{where}: env must be a mapping of names to values")
    return Image(
        reference=name,
        entrypoint=_words(entry.get("entrypoint"), f"{where}: entrypoint"),
        cmd=_words(entry.get("cmd"), f"{where}: cmd"),
        env={str(key): str(value) for key, value in env.items()},
        version=str(entry.get("version", "")),
    )


def _words(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(word, str | int | float) for word in value
    ):
        raise ImageMapError(f"{where} must be a list of words, got {value!r}")
    return tuple(str(word) for word in value)


def combine_command(
    image: Image, command: Sequence[str] | None, args: Sequence[str] | None
) -> list[str]:
    """Combine a container's command and args with the image's ENTRYPOINT and CMD.

    See https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
    """
    if command:
        return [*command, *(args or ())]
    return [*image.entrypoint, *(args if args else image.cmd)]


def resolve_interpreter(argv: Sequence[str]) -> list[str]:
    """Let ``python`` and ``python3`` mean the interpreter that runs the node agent."""
    if argv and argv[0] in ("python", "python3"):
        return [sys.executable, *argv[1:]]
    return list(argv)
