"""OpenSSF model signatures, made with the library's own signer."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from model_scorer.errors import InvalidSpec, SignatureInvalid
from model_scorer.verify.signature import SIGNATURE_NAME, verify_signature

model_signing = pytest.importorskip("model_signing")


class Keys:
    """A key pair on the disk."""

    def __init__(self, folder: Path, name: str, key: Any = None) -> None:
        key = key or ec.generate_private_key(ec.SECP256R1())
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        self.private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "ours")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "labels").mkdir(parents=True)
    (folder / "score.py").write_text("def run(data): return 1\n")
    (folder / "labels" / "a:b c.txt").write_text("x\n")
    return folder


def sign(model: Path, keys: Keys, *, ignore: tuple[Path, ...] = ()) -> None:
    signature = model / SIGNATURE_NAME
    hashing = model_signing.hashing.Config()
    hashing.set_ignored_paths(paths=[signature, *ignore], ignore_git_paths=True)
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys.private)
    config.set_hashing_config(hashing).sign(model, signature)


def test_what_was_signed_holds(model: Path, keys: Keys) -> None:
    sign(model, keys)
    verify_signature(model, keys.public, display="the model")
    assert (model / SIGNATURE_NAME).is_file()
    assert len(list(model.parent.iterdir())) == 3


def change(model: Path) -> None:
    (model / "score.py").write_text("def run(data): return 2\n")


def add(model: Path) -> None:
    (model / "labels" / "sitecustomize.py").write_text("")


def remove(model: Path) -> None:
    (model / "labels" / "a:b c.txt").unlink()


def break_signature(model: Path) -> None:
    (model / SIGNATURE_NAME).write_text("{}")


def cut_signature(model: Path) -> None:
    text = (model / SIGNATURE_NAME).read_bytes()
    (model / SIGNATURE_NAME).write_bytes(text[: len(text) // 2])


def drop_signature(model: Path) -> None:
    (model / SIGNATURE_NAME).unlink()


def nest_signature(model: Path) -> None:
    (model / SIGNATURE_NAME).write_text('{"a":' * 100_000)


def add_git_file(model: Path) -> None:
    (model / ".github").mkdir()
    (model / ".github" / "model.pkl").write_bytes(b"")


@pytest.mark.parametrize(
    "tamper",
    [
        *(change, add, remove, break_signature, cut_signature, drop_signature, nest_signature),
        add_git_file,
    ],
)
def test_anything_else_is_refused(model: Path, keys: Keys, tamper: Any) -> None:
    sign(model, keys)
    tamper(model)
    with pytest.raises(SignatureInvalid, match="the model"):
        verify_signature(model, keys.public, display="the model")


def test_files_that_the_signer_left_out_are_refused(model: Path, keys: Keys) -> None:
    sign(model, keys, ignore=(model / "labels",))
    with pytest.raises(SignatureInvalid, match=r"leaves out: labels/a:b c\.txt"):
        verify_signature(model, keys.public, display="the model")


def test_the_signature_of_another_key_is_refused(model: Path, keys: Keys, tmp_path: Path) -> None:
    sign(model, Keys(tmp_path, "theirs"))
    with pytest.raises(SignatureInvalid, match=r"Key mismatch|InvalidSignature"):
        verify_signature(model, keys.public, display="the model")


def test_a_key_that_is_none_is_a_mistake_of_the_spec(
    model: Path, keys: Keys, tmp_path: Path
) -> None:
    sign(model, keys)
    other = Keys(tmp_path, "other", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "text.pub").write_text("no key")
    for path in (other.public, tmp_path / "text.pub", tmp_path / "nothing", tmp_path):
        with pytest.raises(InvalidSpec, match="public key"):
            verify_signature(model, path, display="the model")
