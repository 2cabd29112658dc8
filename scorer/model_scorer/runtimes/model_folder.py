"""The model folder: which file is the model, is there a score script, what does `model.yaml` say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model_scorer.errors import InvalidSpec, LoadFailed

SCRIPT_NAME = "score.py"
# What `fetch` writes about itself, see docs/architecture.md.
RECORD_NAME = ".fetched.json"
CONFIG_NAME = "model.yaml"

# Files that lie beside a model and are never the model itself.
_ASSET_NAMES = frozenset(
    {SCRIPT_NAME, CONFIG_NAME, "requirements.txt", "MLmodel", "conda.yaml", "python_env.yaml"}
)
_ASSET_SUFFIXES = frozenset({".py", ".txt", ".md", ".yaml", ".yml", ".json", ".tsv", ".csv"})


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A fetched model.

    Attributes:
        path: the folder, absolute.
        script: its `score.py`, or None.
        config: `model.yaml` as it was read; empty without one.
    """

    path: Path
    script: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def find_model_file(self, suffixes: tuple[str, ...]) -> Path:
        """The model file: `file` in model.yaml, else the one with a known suffix, else the only file there is.

        Raises:
            LoadFailed: none, or several that could be meant; the message lists them.
        """
        named = self.config.get("file")
        if named is not None:
            path = (self.path / str(named)).resolve()
            if not path.is_relative_to(self.path.resolve()) or not path.exists():
                raise LoadFailed(
                    f"model.yaml names the file {named!r}, which is not in the model folder",
                    f"the folder holds: {self._listing()}",
                )
            return path
        found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in suffixes)
        if len(found) > 1:
            stems = [p for p in found if p.stem == "model"]
            if len(stems) == 1:
                return stems[0]
            raise LoadFailed(
                f"several files could be the model: {', '.join(p.name for p in found)}",
                "name one `model.*`, or say `file: NAME` in model.yaml",
            )
        if found:
            return found[0]
        others = [
            p
            for p in sorted(self.path.iterdir())
            if p.is_file() and p.name not in _ASSET_NAMES and p.suffix not in _ASSET_SUFFIXES
        ]
        if len(others) == 1:
            return others[0]
        raise LoadFailed(
            f"no model file ({', '.join(suffixes)}) in the model folder",
            f"the folder holds: {self._listing()}",
        )

    def _listing(self) -> str:
        names = sorted(p.name for p in self.path.iterdir())
        return ", ".join(names[:20]) + (" …" if len(names) > 20 else "") if names else "nothing"


def open_model_folder(path: Path) -> ModelFolder:
    """Look into a model folder.

    Raises:
        LoadFailed: there is no such folder, or it is empty.
        InvalidSpec: model.yaml is no YAML mapping.
    """
    path = path.absolute()
    if not path.is_dir():
        raise LoadFailed(f"the model folder {path} does not exist", "did `fetch` run?")
    if not any(path.iterdir()):
        raise LoadFailed(f"the model folder {path} is empty", "did `fetch` run?")
    config: Mapping[str, Any] = {}
    config_path = path / CONFIG_NAME
    if config_path.is_file():
        try:
            config = yaml.safe_load(config_path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as err:
            raise InvalidSpec(
                f"model.yaml is not YAML: {err}", "correct model.yaml beside the model"
            ) from err
        if not isinstance(config, dict):
            raise InvalidSpec("model.yaml must be a mapping", "write `key: value` lines")
    script = path / SCRIPT_NAME
    return ModelFolder(path=path, script=script if script.is_file() else None, config=config)


def read_model_digest(path: Path) -> str:
    """The digest of what was fetched into a model folder, `sha256:…`; empty when the folder was filled by hand."""
    try:
        record = json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))
        digest = record["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    valid = isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    return digest if valid else ""
