import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_scorer.errors import LoadFailed
from model_scorer.fetch.unpack import UnpackLimits, unpack_archive

FILES = {
    "model.joblib": b"x" * 5000,
    "score.py": b"def run(data): ...\n",
    "labels/de/a.txt": "ü".encode(),
}


def tar(entries: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, data: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def zipped(files: dict[str, bytes], **info: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            for field, value in info.items():
                setattr(member, field, value)
            archive.writestr(member, data)
    return buffer.getvalue()


def unpack(content: bytes, tmp_path: Path, limits: UnpackLimits | None = None) -> dict[str, bytes]:
    archive, folder = tmp_path / "archive", tmp_path / "inner" / "folder"
    archive.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    unpack_archive(archive, folder, limits or UnpackLimits(), display="file:///archive")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


PACKERS: dict[str, Callable[[], bytes]] = {
    "tar": lambda: tar([entry(name, data) for name, data in FILES.items()], "w"),
    "tar.gz": lambda: tar([entry(f"./{name}", data) for name, data in FILES.items()]),
    "tar with folders": lambda: tar(
        [entry(".", b"", type=tarfile.DIRTYPE), entry("labels/", b"", type=tarfile.DIRTYPE)]
        + [entry(name, data) for name, data in FILES.items()]
    ),
    "pax": lambda: tar(
        [entry(name, data, pax_headers={"comment": "x" * 300}) for name, data in FILES.items()]
    ),
    "zip": lambda: zipped(FILES),
    "zip of a Mac": lambda: zipped({**FILES, "__MACOSX/._model.joblib": b"x", ".DS_Store": b"x"}),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_archive_is_unpacked(kind: str, tmp_path: Path) -> None:
    assert unpack(PACKERS[kind](), tmp_path) == FILES


def big_header() -> bytes:
    # An extended header that says it has 4 MiB, and has them.
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 4 << 20
    return info.tobuf() + os.urandom(4 << 20)


def many_entries_zip() -> bytes:
    content = bytearray(zipped({"a": b"x"}))
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", content, end + 8, 60_000, 60_000)
    return bytes(content)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip slip": (lambda: zipped({"../evil": b"x"}), "leads out of the folder"),
    "zip slip with backslashes": (lambda: zipped({"..\\..\\evil": b"x"}), "backslash|leads out"),
    "zip slip, absolute": (lambda: zipped({"/tmp/evil": b"x"}), "absolute"),
    "zip slip, drive letter": (lambda: zipped({"C:evil": b"x"}), "drive letter"),
    "zip link": (lambda: zipped({"link": b"/etc/passwd"}, external_attr=0o120777 << 16), "is a link"),
    "zip twice": (lambda: zipped({"a": b"x", "./a": b"y"}), "twice"),
    "zip of a file that is a folder": (lambda: zipped({"a": b"x", "a/b": b"y"}), "file here and a folder there"),
    "zip bomb": (lambda: zipped({"a": b"\0" * (4 << 20)}), "times its size"),
    "zip of too many": (many_entries_zip, "more than 50 entries"),
    "zip over the fetcher's own names": (lambda: zipped({".fetched.json": b"{}"}), "keeps for itself"),
    "zip with control characters": (lambda: zipped({"a\x01b": b"x"}), "control character"),
    "tar slip": (lambda: tar([entry("../evil")]), "leads out of the folder"),
    "tar slip behind a folder": (lambda: tar([entry("a/../../evil")]), "leads out of the folder"),
    "tar slip, absolute": (lambda: tar([entry("/tmp/evil")]), "absolute"),
    "tar symbolic link": (lambda: tar([entry("a", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")]), "is a link"),
    "tar hard link": (lambda: tar([entry("a", b"", type=tarfile.LNKTYPE, linkname="../evil")]), "is a link"),
    "tar link, then a file through it": (
        lambda: tar([entry("a", b"", type=tarfile.SYMTYPE, linkname="/tmp"), entry("a/evil")]), "is a link",
    ),
    "tar device": (lambda: tar([entry("a", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)]), "is a device"),
    "tar pipe": (lambda: tar([entry("a", b"", type=tarfile.FIFOTYPE)]), "is a device"),
    "tar twice": (lambda: tar([entry("a"), entry("a")]), "twice"),
    "tar bomb": (lambda: tar([entry("a", b"\0" * (4 << 20))]), "times its size"),
    "tar of too many": (lambda: tar([entry(str(i), b"") for i in range(51)]), "more than 50 entries"),
    "tar with an oversized header": (big_header, "oversized header"),
    "tar with a long path": (lambda: tar([entry("/".join(["a" * 100] * 12))]), "longer than 1024"),
    "tar with a long name": (lambda: tar([entry("a" * 300)]), "longer than 255"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archive_is_refused_and_nothing_lies_outside(kind: str, tmp_path: Path) -> None:
    pack, said = HOSTILE[kind]
    with pytest.raises(LoadFailed, match=said) as caught:
        unpack(pack(), tmp_path, UnpackLimits(max_files=50, ratio_free_bytes=1 << 20))
    assert "file:///archive" in caught.value.message
    assert caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "inner"]
    assert [p.name for p in (tmp_path / "inner").iterdir()] == ["folder"]
    assert not Path("/tmp/evil").exists()


def test_archive_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    limits = UnpackLimits(max_bytes=6000)
    for content in (PACKERS["tar"](), zipped({"a": os.urandom(4000), "b": os.urandom(4000)})):
        assert len(content) > 6000
    with pytest.raises(LoadFailed, match="unpacks to"):
        unpack(zipped({"a": os.urandom(4000), "b": os.urandom(4000)}), tmp_path, limits)
    with pytest.raises(LoadFailed, match="unpacks to"):
        unpack(tar([entry("c", os.urandom(7000))]), tmp_path, limits)


BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"<html>not found</html>",
    "cut tar.gz": lambda: PACKERS["tar.gz"]()[:-20],
    "cut tar": lambda: PACKERS["tar"]()[:5000],
    "tar without its end": lambda: PACKERS["tar"]()[: 512 + 5120],
    "tar damaged in the middle": lambda: (lambda c: c[:5632] + b"garbage" + c[5639:])(
        PACKERS["tar"]()
    ),
    "wrong checksum in gzip": lambda: (lambda c: c[:-8] + b"\0\0\0\0" + c[-4:])(
        PACKERS["tar.gz"]()
    ),
    "cut zip": lambda: zipped(FILES)[:-30],
    "damaged zip": lambda: (lambda c: c[:60] + b"\xff\xff\xff" + c[63:])(zipped(FILES)),
    "gzip of text": lambda: gzip.compress(b"text" * 1000),
    "zlib": lambda: zlib.compress(b"text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_archive_says_so(kind: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"broken|cannot be read|refused"):
        unpack(BROKEN[kind](), tmp_path)


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"x"}))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(LoadFailed, match="encrypted"):
        unpack(bytes(content), tmp_path)


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_fetched_archive_fills_the_model_folder(suffix: str, server: Any, fetching: Any) -> None:
    server.files[f"/faq.{suffix}"] = PACKERS[suffix]()
    fetched = fetching(f"{server.url}/faq.{suffix}")
    assert fetching.files == FILES
    assert fetched.files == 3


def test_archive_of_one_folder_is_opened_one_level_further(server: Any, fetching: Any) -> None:
    server.files["/faq.zip"] = zipped({f"faq/{name}": data for name, data in FILES.items()})
    fetching(f"{server.url}/faq.zip")
    assert fetching.files == FILES


def test_hostile_archive_leaves_an_empty_model_folder(server: Any, fetching: Any) -> None:
    server.files["/faq.tgz"] = tar([entry("model.joblib"), entry("../../evil")])
    with pytest.raises(LoadFailed):
        fetching(f"{server.url}/faq.tgz")
    fetching.assert_empty()
