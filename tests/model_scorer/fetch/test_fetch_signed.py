"""A fetch that asks for a signature publishes nothing without one."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_scorer.errors import SignatureInvalid

model_signing = pytest.importorskip("model_signing")


@pytest.fixture
def signed(tmp_path: Path, fetching: Any) -> Path:
    """A signed model folder; the fetch asks for its key's signature."""
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "score.py").write_text("def run(data): return 1\n")
    model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem").sign(
        folder, tmp_path / "model.sig"
    )
    (tmp_path / "model.sig").rename(folder / "model.sig")
    fetching.change(signature_key=tmp_path / "key.pub")
    return folder


def test_a_signed_folder_is_published(signed: Path, fetching: Any) -> None:
    fetching(signed.as_uri())
    assert set(fetching.files) == {"score.py", "model.sig"}


def test_a_signed_archive_is_published(signed: Path, fetching: Any, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", signed.parent, signed.name)
    fetching(Path(archive).as_uri())
    assert set(fetching.files) == {"score.py", "model.sig"}


def test_a_changed_folder_is_not(signed: Path, fetching: Any) -> None:
    (signed / "score.py").write_text("import os\n")
    with pytest.raises(SignatureInvalid, match=r"score\.py"):
        fetching(signed.as_uri())
    fetching.assert_empty()


@pytest.fixture
def signed_file(signed: Path, tmp_path: Path) -> Path:
    """A signed single file, the signature beside it."""
    file = tmp_path / "published" / "model.bin"
    file.write_bytes(b"weights")
    sign_file(file, tmp_path)
    return file


def sign_file(file: Path, keys: Path) -> None:
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys / "key.pem")
    signer.sign(file, file.with_name(f"{file.name}.sig"))


def test_a_signed_file_is_published_without_its_signature(signed_file: Path, fetching: Any) -> None:
    fetched = fetching(signed_file.as_uri())
    assert fetching.files == {"model.bin": b"weights"}
    assert fetched.digest == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"


def test_a_signed_file_may_be_renamed(signed_file: Path, fetching: Any) -> None:
    signed_file.rename(signed_file.with_name("faq.bin"))
    signed_file.with_name("model.bin.sig").rename(signed_file.with_name("faq.bin.sig"))
    fetching(signed_file.with_name("faq.bin").as_uri())
    assert fetching.files == {"faq.bin": b"weights"}


def test_a_signed_file_on_a_web_server_is_published(
    signed_file: Path, fetching: Any, server: Any
) -> None:
    server.files["/m/model.bin"] = b"weights"
    server.files["/m/model.bin.sig"] = signed_file.with_name("model.bin.sig").read_bytes()
    fetching(f"{server.url}/m/model.bin")
    assert fetching.files == {"model.bin": b"weights"}


def test_a_file_without_a_signature_is_not_published(signed: Path, fetching: Any) -> None:
    with pytest.raises(SignatureInvalid, match=r"no score\.py\.sig beside it") as caught:
        fetching((signed / "score.py").as_uri())
    assert "model_signing sign key" in caught.value.hint
    fetching.assert_empty()


def test_a_changed_file_is_not_published(signed_file: Path, fetching: Any) -> None:
    signed_file.write_bytes(b"others")
    with pytest.raises(SignatureInvalid, match="does not hold"):
        fetching(signed_file.as_uri())
    fetching.assert_empty()


def test_the_signature_of_another_file_is_not_enough(
    signed_file: Path, fetching: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"others")
    sign_file(other, tmp_path)
    other.with_name("other.bin.sig").replace(signed_file.with_name("model.bin.sig"))
    with pytest.raises(SignatureInvalid, match="does not hold"):
        fetching(signed_file.as_uri())
    fetching.assert_empty()


def test_the_signature_of_a_folder_is_not_enough_for_a_file(
    signed: Path, fetching: Any, tmp_path: Path
) -> None:
    (signed / "model.sig").rename(signed / "score.py.sig")
    with pytest.raises(SignatureInvalid):
        fetching((signed / "score.py").as_uri())
    fetching.assert_empty()


def test_the_signature_of_another_key_is_not_enough(
    signed_file: Path, fetching: Any, tmp_path: Path
) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other.pub").write_bytes(
        public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    fetching.change(signature_key=tmp_path / "other.pub")
    with pytest.raises(SignatureInvalid, match="does not hold"):
        fetching(signed_file.as_uri())
    fetching.assert_empty()


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"dsseEnvelope": {}}'])
def test_what_is_no_signature_is_not_enough(
    content: bytes, signed_file: Path, fetching: Any
) -> None:
    signed_file.with_name("model.bin.sig").write_bytes(content)
    with pytest.raises(SignatureInvalid):
        fetching(signed_file.as_uri())
    fetching.assert_empty()
