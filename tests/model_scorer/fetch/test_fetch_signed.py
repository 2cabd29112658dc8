"""A fetch that asks for a signature publishes nothing without one."""

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


def test_a_single_file_cannot_carry_a_signature(signed: Path, fetching: Any) -> None:
    with pytest.raises(SignatureInvalid, match="no signature"):
        fetching((signed / "score.py").as_uri())
    fetching.assert_empty()
