"""What a model asks for in `requirements.txt`, or in MLflow's `conda.yaml`: names and versions, nothing else. Pure.

The file comes with the model, so it decides what is installed and never from where or how: options that name an index are
left out, and lines that are no requirement of an index (URLs, paths, other files) are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from model_scorer.errors import LoadFailed

FILE_NAME = "requirements.txt"
_MAX_BYTES = 4 << 20
_HASH = re.compile(r"\s--hash[= ]\s*((?:sha256|sha384|sha512):[0-9a-fA-F]+)")
_COMMENT = re.compile(r"(^|\s)#.*$")
# Where and how to install is not the model's to say.
_IGNORED_OPTION = re.compile(
    r"(-i|-f|--(extra-)?index-url|--find-links|--no-index|--trusted-host|--pre|--prefer-binary|--only-binary|--no-binary"
    r"|--require-hashes|--use-feature)([=\s]|$)"
)
# MLflow lists itself in every model that it writes; a model that is served without it does not need it.
_MLFLOW = frozenset({"mlflow", "mlflow-skinny"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """One line.

    Attributes:
        requirement: of an index, its marker true here.
        hashes: `sha256:…` of the wheels that may be taken; empty: any.
    """

    requirement: Requirement
    hashes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The distribution's name in its canonical form."""
        return canonicalize_name(self.requirement.name)

    @property
    def line(self) -> str:
        """The line as pip reads it."""
        return " ".join([str(self.requirement), *(f"--hash={value}" for value in self.hashes)])


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a model asks for.

    Attributes:
        source: the file's name, for messages.
        wanted: its requirements, in its order.
        ignored: options that were left out.
        refused: lines that are no requirement of an index, each with the reason.
    """

    source: str
    wanted: tuple[Wanted, ...] = ()
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def hashed(self) -> bool:
        """Whether wheels are checked: one hash is enough to ask for all (as pip has it)."""
        return any(wanted.hashes for wanted in self.wanted)


def read_requirements(folder: Path) -> Requirements | None:
    """Read the requirements that lie beside a model; None when there are none.

    Raises:
        LoadFailed: the file is no text, or larger than any list of packages.
    """
    path = folder / FILE_NAME
    mlflow = (folder / "MLmodel").is_file()
    if path.is_file():
        lines = list(_join_lines(_read(path)))
    elif mlflow and (folder / "conda.yaml").is_file():
        path = folder / "conda.yaml"
        lines = _pip_lines(path)
    else:
        return None
    return parse_lines(path.name, lines, without=_MLFLOW if mlflow else frozenset())


def parse_lines(
    source: str, lines: list[str], *, without: frozenset[str] = frozenset()
) -> Requirements:
    """Sort the lines of a requirements file into requirements, options and what is refused.

    Args:
        source: the file's name.
        lines: without comments, continuation lines joined.
        without: canonical names to leave out.
    """
    wanted: list[Wanted] = []
    ignored: list[str] = []
    refused: list[str] = []
    for line in lines:
        if _IGNORED_OPTION.match(line):
            ignored.append(line.split("=")[0].split()[0])
            continue
        if line.startswith("-"):
            refused.append(f"{line[:80]!r} is an option that names other files")
            continue
        hashes = tuple(_HASH.findall(line))
        try:
            requirement = Requirement(_HASH.sub("", line).strip())
        except InvalidRequirement:
            refused.append(f"{line[:80]!r} names no package of an index")
            continue
        if requirement.url:
            refused.append(f"{requirement.name!r} comes from a URL, not from an index")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.marker = None
        if canonicalize_name(requirement.name) not in without:
            wanted.append(Wanted(requirement, hashes))
    return Requirements(source, tuple(wanted), tuple(ignored), tuple(refused))


def _read(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise LoadFailed(
            f"{path.name} is larger than {_MAX_BYTES >> 20} MiB.", hint="List the packages only."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise LoadFailed(f"{path.name} is no UTF-8 text.", hint="Save it as UTF-8.") from err


def _join_lines(text: str) -> Iterator[str]:
    """Yield logical lines: a backslash at the end continues, comments and empty lines are gone."""
    pending = ""
    for raw in text.splitlines():
        # A comment ends a line, also one that was continued.
        line = _COMMENT.sub("", pending + raw).rstrip()
        if line.endswith("\\"):
            pending = line[:-1] + " "
            continue
        pending = ""
        if line.strip():
            yield line.strip()
    if pending.strip():
        yield pending.strip()


def _pip_lines(path: Path) -> list[str]:
    """Return the pip part of a conda environment."""
    try:
        content: Any = yaml.safe_load(_read(path))
    except yaml.YAMLError as err:
        raise LoadFailed(f"{path.name} is not YAML.", hint="Log the model again.") from err
    entries = content.get("dependencies") if isinstance(content, dict) else None
    return [
        str(line)
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list)
        for line in entry["pip"]
    ]
