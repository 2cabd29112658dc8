"""OpenSSF model signatures: a model is what the owner of a key signed, whole and unchanged, or it is not used.

The signature is a Sigstore bundle (https://github.com/sigstore/model-transparency). Of a folder it is `model.sig` in the
folder, made with `model_signing sign key --private_key key.pem --signature MODEL/model.sig MODEL`; of a single file it
lies beside the file under the file's name and `.sig`, made with
`model_signing sign key --private_key key.pem --signature FILE.sig FILE`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

from model_scorer.errors import InvalidSpec, MissingDependency, SignatureInvalid

log = logging.getLogger(__name__)

SIGNATURE_NAME = "model.sig"
SIGNATURE_SUFFIX = ".sig"
_MAX_SIGNATURE_BYTES = 32 << 20
_MAX_KEY_BYTES = 64 << 10
_SIGN_FOLDER = (
    f"model_signing sign key --private_key key.pem --signature MODEL/{SIGNATURE_NAME} MODEL"
)
_SIGN_FILE = f"model_signing sign key --private_key key.pem --signature FILE{SIGNATURE_SUFFIX} FILE"


def verify_signature(folder: Path, public_key: Path, *, display: str) -> None:
    """Compare a folder with its signature.

    Args:
        folder: the model's files with `model.sig` among them; nothing else is in it yet.
        public_key: PEM of an elliptic curve key (P-256, P-384 or P-521).
        display: the model's URI for messages.

    Raises:
        SignatureInvalid: no signature, another key's, or files that were changed, added or removed since.
        InvalidSpec: the key cannot be read.
        MissingDependency: the library that verifies is not installed.
    """
    verifier = _build_verifier(public_key)
    signature = folder / SIGNATURE_NAME
    if not signature.is_file():
        raise SignatureInvalid(
            f"{display} has no signature: there is no {SIGNATURE_NAME} in it.",
            hint=f"Publish a folder or an archive that was signed: {_SIGN_FOLDER}",
        )
    # It may have been made beside the folder, and is not a part of what it signs.
    aside = folder.with_name(f".{folder.name}.{SIGNATURE_NAME}")
    signature.rename(aside)
    try:
        signed = _verify(verifier, folder, aside, display, _SIGN_FOLDER)
    finally:
        aside.rename(signature)
    # The signer may leave out what it likes, git's files by default; what is left out is not to be used here.
    if unsigned := _files_of(folder) - signed - {SIGNATURE_NAME}:
        raise SignatureInvalid(
            f"{display} holds files that its signature leaves out: {', '.join(sorted(unsigned)[:5])}.",
            "Remove them, or sign the folder with them (model_signing sign key … --no-ignore-git-paths).",
        )
    log.info("the signature holds", extra={"uri": display})


def verify_file_signature(file: Path, signature: Path, public_key: Path, *, display: str) -> None:
    """Compare a single file with the signature that lies beside it.

    Args:
        file: the model.
        signature: what was fetched from the model's URI and `.sig`.
        public_key: PEM of an elliptic curve key (P-256, P-384 or P-521).
        display: the model's URI for messages.

    Raises:
        SignatureInvalid: another key's signature, or another file's.
        InvalidSpec: the key cannot be read.
        MissingDependency: the library that verifies is not installed.
    """
    signed = _verify(_build_verifier(public_key), file, signature, display, _SIGN_FILE)
    # "." is how a signature says that it is about the file itself, whatever it is called.
    if signed != {"."}:
        raise SignatureInvalid(
            f"The signature of {display} is one of a folder; nothing was loaded.",
            f"Sign the file: {_SIGN_FILE}",
        )
    log.info("the signature holds", extra={"uri": display})


def no_file_signature(display: str) -> SignatureInvalid:
    """Return the error for a single file that has no signature beside it."""
    name = display.rpartition("/")[2] + SIGNATURE_SUFFIX
    return SignatureInvalid(
        f"{display} has no signature: there is no {name} beside it.",
        hint=f"Sign the file, and upload the signature beside it: {_SIGN_FILE}",
    )


def _build_verifier(public_key: Path) -> Any:
    try:
        from model_signing import verifying
    except ImportError as err:
        raise MissingDependency(
            f"A signature is asked for, and the Python module {err.name or 'model_signing'}, which verifies it, is not "
            "in this image.",
            hint="Use a scorer image with the extra 'signing' (spec.image).",
        ) from err
    verifier = verifying.Config()
    try:
        if public_key.stat().st_size > _MAX_KEY_BYTES:
            raise ValueError("it is too long for a key")
        verifier.use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as err:
        what = err.strerror if isinstance(err, OSError) else str(err).splitlines()[0][:200]
        raise InvalidSpec(
            f"The public key {public_key} cannot be used: {what}.",
            hint="Give the PEM of an elliptic curve key: openssl ec -in key.pem -pubout.",
        ) from err
    return verifier


def _verify(verifier: Any, model: Path, signature: Path, display: str, command: str) -> set[str]:
    """Compare a file or folder with its signature; return the paths that are signed, `.` for a file."""
    way_out = (
        f"Sign the model again with the key's private half ({command}) and upload all of it; if the model was not "
        "changed on purpose, find out who did."
    )
    if signature.stat().st_size > _MAX_SIGNATURE_BYTES:
        raise SignatureInvalid(
            f"The signature of {display} is larger than {_MAX_SIGNATURE_BYTES >> 20} MiB.", way_out
        )
    try:
        # The library prints what it has to say about old signatures.
        with contextlib.redirect_stdout(io.StringIO()):
            verifier.verify(model, signature)
        return _signed_files(signature)
    # Whatever the library trips over, the files are not what was signed.
    except Exception as err:
        text = " ".join(str(err).split())[:500] or "the signature is another key's"
        raise SignatureInvalid(
            f"The signature of {display} does not hold ({type(err).__name__}: {text}); nothing was loaded.",
            way_out,
        ) from err


def _files_of(folder: Path) -> set[str]:
    return {
        str((Path(current) / name).relative_to(folder))
        for current, _, names in os.walk(folder)
        for name in names
    }


def _signed_files(signature: Path) -> set[str]:
    """Return the paths that a signature, which holds, is about (in-toto statement in a DSSE envelope)."""
    bundle: Any = json.loads(signature.read_bytes())
    statement: Any = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    if "resources" not in statement.get("predicate", {}):
        return {str(subject["name"]) for subject in statement["subject"]}
    return {str(resource["name"]) for resource in statement["predicate"]["resources"]}
