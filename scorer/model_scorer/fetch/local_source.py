"""Models on a file system: `file:`, and the volumes that the operator mounts for `pvc:` and `oci:`.

Files are copied, not linked: all replicas of a revision must serve the bytes that were verified, whatever happens to
the volume afterwards.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from model_scorer.errors import LoadFailed, ModelForbidden, ModelNotFound
from model_scorer.fetch.digest import CHUNK_BYTES
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.paths import parse_relative_path
from model_scorer.fetch.progress import Progress
from model_scorer.fetch.sink import FileSink, check_free_space


def copy_from_disk(
    source: Path, display: str, download: Download, progress: Progress, *, max_files: int
) -> None:
    """Copy a file or a folder into `download.folder`.

    A link is followed when it stays inside the folder, as those of mounted ConfigMaps do.

    Raises:
        ModelNotFound: nothing there.
        ModelForbidden: not readable, or a link that leaves the folder.
        LoadFailed: a device or socket, a name that cannot be kept, too many files.
        DiskFull: the copy does not fit.
    """
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            download.single = False
            files = list(_walk(source, display, max_files=max_files))
            total = sum(path.stat().st_size for path, _ in files)
            progress.check_fits(total)
            check_free_space(download.folder, total)
            for path, relative in files:
                _copy(path, relative, download, progress)
        elif stat.S_ISREG(mode):
            _copy(source, _checked(source.name, display), download, progress)
        else:
            raise LoadFailed(
                f"{display} is neither a file nor a folder.", hint="Name a model file or folder."
            )
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ModelNotFound(
            f"Nothing lies at {display}.",
            hint="Check the path in spec.modelURI, and that the image or volume that holds it is mounted.",
        ) from err
    except PermissionError as err:
        raise ModelForbidden(
            f"{display} may not be read by user {os.getuid()}: {err.filename or source}.",
            hint="Make the files readable for the pod's user, for example with an fsGroup or chmod -R a+rX.",
        ) from err


def _walk(folder: Path, display: str, *, max_files: int) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield the real path and the relative path of every file, in a stable order."""
    root = folder.resolve()
    found = 0
    for current, folders, names in os.walk(folder, onerror=_raise):
        # Names that begin with two dots are the kubelet's: the versions behind a mounted ConfigMap's links.
        folders[:] = sorted(
            name for name in folders if not name.startswith("..") and name != "lost+found"
        )
        for name in folders:
            if (Path(current) / name).is_symlink():
                raise ModelForbidden(
                    f"{display} holds a link to a folder: {name!r}.",
                    hint="Put the folder itself there (cp -L).",
                )
        for name in sorted(names):
            if name.startswith(".."):
                continue
            path = Path(current) / name
            real = path.resolve(strict=True) if path.is_symlink() else path
            if path.is_symlink() and not real.is_relative_to(root):
                raise ModelForbidden(
                    f"{display} holds a link that leads out of it: {name!r}.",
                    hint="Put the file itself there (cp -L).",
                )
            if not stat.S_ISREG(real.stat().st_mode):
                raise LoadFailed(
                    f"{display} holds {name!r}, which is neither a file nor a folder.",
                    hint="Remove it.",
                )
            found += 1
            if found > max_files:
                raise LoadFailed(
                    f"{display} has more than {max_files} files.",
                    hint="Pack the folder as an archive.",
                )
            yield real, _checked(str(path.relative_to(folder)), display)


def _raise(err: OSError) -> None:
    raise err


def _checked(name: str, display: str) -> PurePosixPath:
    try:
        return parse_relative_path(name)
    except ValueError as err:
        raise LoadFailed(
            f"{display} holds a path {name[:200]!r} that {err}.", hint="Rename the file."
        ) from err


def _copy(source: Path, relative: PurePosixPath, download: Download, progress: Progress) -> None:
    target = download.folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb", buffering=0) as file:
        sink = FileSink(target, progress)
        try:
            sink.expect(os.fstat(file.fileno()).st_size)
            buffer = memoryview(bytearray(CHUNK_BYTES))
            while count := file.readinto(buffer):
                sink.write(buffer[:count], sink.size)
            size, digest = sink.size, sink.finish()
        finally:
            sink.close()
    download.add(str(relative), digest, size)
